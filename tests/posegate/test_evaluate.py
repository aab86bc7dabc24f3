"""labelled folder -> AP and AR: posegate.evaluate."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from fakes import DETECTOR_NAME, POSE_NAME, encode, make_photo
from labelled_folder import BOXES, label, write
from posegate.errors import BadOption
from posegate.evaluate import KEYPOINT_FIGURES, evaluate, load_data
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline


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
