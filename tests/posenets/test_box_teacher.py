"""Boxes of a published detector: posenets.training.box_teacher."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from made_networks import constant_network, save_constant_teacher
from posenets.training.box_teacher import BoxTeacher, label_boxes
from posenets.training.detection_data import DetectionBatch
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
    np.testing.assert_allclose(found["0.png"], [[60, 30, 120, 180, 0.9]], rtol=1e-3)


def test_boxes_of_a_look_take_the_place_of_labels(detector: Path) -> None:
    labelled = torch.tensor([[60, 30, 190, 220], [200, 0, 256, 200], [0, 0, 0, 0]]).float()
    region = torch.tensor([[0, 240, 256, 256]]).float()
    batch = DetectionBatch(
        images=torch.full((1, 3, 256, 256), 255.0),
        people=labelled[None],
        chances=torch.tensor([[1.0, 1.0, 0.0]]),
        ignored=region[None],
    )
    taught = BoxTeacher(detector, 256).taught(batch)
    np.testing.assert_allclose(taught.people[0], DETS[0, :, :4])
    np.testing.assert_allclose(taught.chances[0], DETS[0, :, 4])
    regions = taught.ignored[0][taught.ignored[0].amax(1) > 0]
    np.testing.assert_array_equal(regions, torch.stack([region[0], labelled[1]]))


def test_boxes_that_the_teacher_hardly_believes_are_background(tmp_path: Path) -> None:
    path = tmp_path / "detector.onnx"
    doubts = np.array([[[0, 0, 50, 50, 0.04]] * 3], np.float32)
    onnx.save(constant_network({"dets": doubts}, size_wh=(64, 64)), path)
    nobody = torch.zeros(1, 1, 4)
    batch = DetectionBatch(torch.full((1, 3, 64, 64), 255.0), nobody, torch.zeros(1, 1), nobody)
    taught = BoxTeacher(path, 64).taught(batch)
    assert not taught.chances.any()
    assert not taught.ignored.any()


def test_a_look_that_finds_no_box_at_all(tmp_path: Path) -> None:
    path = tmp_path / "detector.onnx"
    onnx.save(constant_network({"dets": np.zeros((1, 0, 5), np.float32)}, size_wh=(64, 64)), path)
    nobody = torch.zeros(1, 1, 4)
    batch = DetectionBatch(torch.full((1, 3, 64, 64), 255.0), nobody, torch.zeros(1, 1), nobody)
    assert not BoxTeacher(path, 64).taught(batch).chances.any()


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
