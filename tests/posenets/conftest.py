"""Made photos of coloured joints, as a COCO folder, a crop cache and a pack of shards."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from made_labels import PHOTOS, encoded, made_labels
from posenets.training.cache import build_cache


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """Path of the label file of a COCO folder."""
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    for index in range(PHOTOS):
        (folder / "images" / f"{index}.png").write_bytes(encoded(index))
    labels = folder / "labels.json"
    labels.write_text(json.dumps(made_labels()))
    return labels


@pytest.fixture
def cached(coco_folder: Path, tmp_path: Path) -> Path:
    """Path of a crop cache of that folder."""
    build_cache(coco_folder, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Path of the label file of a pack of one shard."""
    labels = tmp_path / "pack.json"
    labels.write_text(json.dumps(made_labels(shard=0)))
    with tarfile.open(tmp_path / "pack_0.tar", "w") as tar:
        for index in range(PHOTOS):
            data = encoded(index)
            member = tarfile.TarInfo(f"{index}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return labels
