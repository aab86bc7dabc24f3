"""Boxes of a published detector: posenets.training.box_teacher."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from made_networks import constant_network, save_constant_teacher
from posenets.training.box_teacher import label_boxes
from posenets.training.records import BadData

DETS = np.array([[[64, 32, 192, 224, 0.9], [0, 0, 10, 10, 0.1]]], np.float32)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A detector for 256x256 that finds the same two boxes in every picture."""
    path = tmp_path / "detector.onnx"
    onnx.save(constant_network({"dets": DETS}, size_wh=(256, 256)), path)
    return path


def test_boxes_lie_in_the_pixels_of_the_photo(coco_folder: Path, detector: Path) -> None:
    out = coco_folder.parent / "boxes.json"
    assert label_boxes(coco_folder, detector, out, size=256) == 6
    found = json.loads(out.read_text())
    assert sorted(found) == [f"{index}.png" for index in range(6)]
    np.testing.assert_allclose(found["0.png"], [[60.094, 30, 120.188, 180, 0.9]], rtol=1e-5)


def _refused(named: str, labels: Path, teacher: Path, size: int) -> None:
    out = labels.parent / "boxes.json"
    with pytest.raises(BadData, match=f"^{re.escape(str(teacher))}: [^\n]*{named}[^\n]*$"):
        label_boxes(labels, teacher, out, size=size)
    assert not out.exists()


def test_networks_that_give_no_boxes_are_named(coco_folder: Path, detector: Path) -> None:
    _refused("takes no picture of 96x96; see --size", coco_folder, detector, 96)
    other = detector.with_name("other.onnx")
    save_constant_teacher(other, np.zeros((1, 17, 64, 48), np.float32), size_wh=(256, 256))
    _refused(r"its output is \(1, 17, 64, 48\), not boxes", coco_folder, other, 256)
    other.write_bytes(b"no network")
    _refused("not a network ONNX Runtime can load", coco_folder, other, 256)
