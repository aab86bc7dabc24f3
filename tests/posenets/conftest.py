"""Made photos of coloured joints, as a COCO folder and as a pack of shards."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

PHOTOS = 6


def made_photo(index: int) -> tuple[np.ndarray, list[float]]:
    """A picture with 17 dots on a grid, and their COCO keypoints."""
    pixels = np.full((240, 200, 3), 60 + 5 * index, np.uint8)
    keypoints: list[float] = []
    for joint in range(17):
        x, y = 50 + 25 * (joint % 5), 40 + 40 * (joint // 5)
        cv2.circle(pixels, (x, y), 4, (15 * joint, 255 - 15 * joint, 200), -1)
        keypoints += [x, y, 2 if joint % 2 else 1]
    return pixels, keypoints


def made_labels(**image_extra: Any) -> dict[str, Any]:
    images, annotations = [], []
    for index in range(PHOTOS):
        _, keypoints = made_photo(index)
        images.append({"id": index, "file_name": f"{index}.png", "width": 200, "height": 240})
        images[-1] |= {"source": "left" if index % 2 else "right"} | image_extra
        annotations.append(
            {
                "id": index,
                "image_id": index,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [40.0, 30.0, 120.0, 150.0],
                "area": 18000.0,
                "keypoints": keypoints,
                "num_keypoints": 17,
                "keypoint_scores": [0.5] * 17,
            }
        )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def encoded(index: int) -> bytes:
    return bytes(cv2.imencode(".png", made_photo(index)[0])[1])


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
