"""labelled folder -> AP and AR: posegate.evaluate."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import DETECTOR_NAME, MADE_JOINTS_CROP, POSE_NAME, encode, make_photo
from posegate.errors import BadOption
from posegate.evaluate import KEYPOINT_FIGURES, evaluate, load_data
from posegate.geometry import apply_affine, box_to_region, invert_affine, region_to_crop_affine
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline

BOXES = [[60.0, 80.0, 150.0, 240.0], [300.0, 60.0, 200.0, 300.0]]


def seen_by_the_made_network(box: list[float]) -> np.ndarray:
    """(17, 2) where the made pose network sees the joints of a box's person."""
    x, y, width, height = box
    region = box_to_region(
        np.array([[x, y, x + width, y + height]], np.float32), aspect=48 / 64, padding=1.25
    )
    crop_to_image = invert_affine(region_to_crop_affine(region, size_wh=(48, 64)))
    return apply_affine(crop_to_image, MADE_JOINTS_CROP[None])[0]


def label(number: int, image_id: int, box: list[float], **changes: Any) -> dict[str, Any]:
    joints = np.column_stack([seen_by_the_made_network(box), np.full(17, 2.0)])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "area": box[2] * box[3] * 0.6,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": joints.reshape(-1).tolist(),
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two labelled photos, one with a crowd, and a label whose photo is not there."""
    (tmp_path / "images").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "images" / name).write_bytes(encode(make_photo(width=640, height=480)))
    write(
        tmp_path,
        [
            label(1, 1, BOXES[0]),
            label(2, 2, BOXES[1]),
            label(3, 2, [0, 0, 600, 400], iscrowd=1),
            label(4, 2, [5, 5, 50, 50], num_keypoints=0, keypoints=[0] * 51),
            label(5, 3, BOXES[0]),
        ],
    )
    return tmp_path


def write(folder: Path, labels: list[dict[str, Any]]) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": 640, "height": 480} for i in (1, 2, 3)]
    document = {
        "images": images,
        "annotations": labels,
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "person_keypoints.json").write_text(json.dumps(document))


def test_only_people_with_keypoints_in_pictures_that_are_there_count(folder: Path) -> None:
    data = load_data(folder)
    assert [(photo.id, photo.boxes_xywh) for photo in data.photos] == [
        (1, [BOXES[0]]),
        (2, [BOXES[1]]),
    ]


async def test_a_network_that_sees_the_truth_scores_one(pipeline: Pipeline, folder: Path) -> None:
    report = await evaluate(pipeline, folder, EstimateOptions(decode="argmax"))
    assert report.keypoints is not None
    assert tuple(report.keypoints) == KEYPOINT_FIGURES
    assert report.keypoints["ap"] == report.keypoints["ar"] == 1.0
    assert (report.model, report.detector, report.boxes) == (POSE_NAME, None, None)
    assert (report.images, report.people) == (2, 2)


async def test_a_network_that_sees_people_elsewhere_scores_zero(
    pipeline: Pipeline, folder: Path
) -> None:
    far = label(1, 1, BOXES[0])
    far["keypoints"] = [value + 200 * (i % 3 < 2) for i, value in enumerate(far["keypoints"])]
    write(folder, [far])
    report = await evaluate(pipeline, folder, EstimateOptions())
    assert report.keypoints is not None
    assert report.keypoints["ap"] == 0.0


async def test_detector_boxes_are_scored_too(pipeline: Pipeline, folder: Path) -> None:
    found = await pipeline.find_people(encode(make_photo(width=640, height=480)), EstimateOptions())
    boxes = found.xywh.tolist()
    write(folder, [label(i, i % 2 + 1, box) for i, box in enumerate([*boxes, *boxes[::-1]], 1)])
    report = await evaluate(
        pipeline, folder, EstimateOptions(decode="argmax", min_score=0.0), boxes="detector"
    )
    assert report.detector == DETECTOR_NAME
    assert report.boxes == {"ap": 1.0, "ap50": 1.0}
    assert report.keypoints is not None
    assert report.keypoints["ap50"] == 1.0


async def test_boxes_alone_do_not_run_the_pose_network(pipeline: Pipeline, folder: Path) -> None:
    heard: list[tuple[int, int]] = []
    report = await evaluate(
        pipeline,
        folder,
        EstimateOptions(),
        task="boxes",
        on_photo=lambda done, total: heard.append((done, total)),
    )
    assert report.keypoints is None
    assert report.boxes is not None
    assert heard == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file"),
        ("[", "is not COCO keypoint annotations"),
        ('{"images": []}', "is not COCO keypoint annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "holds none of the pictures"),
    ],
)
def test_a_folder_without_usable_labels_is_refused(
    tmp_path: Path, text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / "person_keypoints.json").write_text(text)
    with pytest.raises(BadOption, match=words):
        load_data(tmp_path)


async def test_a_missing_evaluator_is_named_before_any_work(
    pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without_pycocotools(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pycocotools)
    with pytest.raises(BadOption, match=r"pip install 'posegate\[evaluate\]'"):
        await evaluate(pipeline, folder, EstimateOptions())
