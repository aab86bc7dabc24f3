"""labelled folder -> AP and AR: posegate.evaluate."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

import image_files as files
from fakes import DETECTOR_NAME, MADE_JOINTS_HEATMAP, POSE_NAME, encode, make_photo, make_repository
from labelled_folder import BOXES, label, write
from posegate.build import running_pipeline
from posegate.errors import BadOption
from posegate.evaluate import BOX_FIGURES, KEYPOINT_FIGURES, Task, coco_scorer, evaluate, load_data
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.skeleton import COCO_KEYPOINTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two labelled photos, one with a crowd and a person without keypoints."""
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
        ],
    )
    return tmp_path


def test_only_people_with_keypoints_count(folder: Path) -> None:
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


async def test_people_without_a_count_of_keypoints_are_those_that_have_some(
    pipeline: Pipeline, folder: Path
) -> None:
    labels = [label(1, 1, BOXES[0]), label(2, 2, [5, 5, 50, 50], keypoints=[9, 9, 0] * 17)]
    for row in labels:
        del row["num_keypoints"]
    write(folder, labels)
    assert [photo.boxes_xywh for photo in load_data(folder).photos] == [[BOXES[0]], []]
    report = await evaluate(pipeline, folder, EstimateOptions(decode="argmax"))
    assert report.keypoints is not None
    assert (report.people, report.keypoints["ap"]) == (1, 1.0)


async def test_a_network_of_other_joints_is_refused_but_its_boxes_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fakes.MADE_JOINTS_HEATMAP", MADE_JOINTS_HEATMAP[1:])
    made = make_repository(folder, pose_changes={"keypoints": COCO_KEYPOINTS[1:]})
    async with running_pipeline(Settings(model_repository=made, threads=2)) as pipeline:
        with pytest.raises(BadOption, match=r"COCO's 17 keypoints .* of made-pose names 16, left_"):
            await evaluate(pipeline, folder, EstimateOptions())
        assert (await evaluate(pipeline, folder, EstimateOptions(), task="boxes")).boxes is not None


@pytest.mark.parametrize("task", ["keypoints", "boxes"])
async def test_labels_of_another_size_than_the_photo_are_refused(
    pipeline: Pipeline, folder: Path, task: Task
) -> None:
    path = folder / "person_keypoints.json"
    labels = json.loads(path.read_text())
    labels["images"][1] |= {"width": 480, "height": 640}
    path.write_text(json.dumps(labels))
    with pytest.raises(
        BadOption, match=r"/2\.png: the photo has 640x480 pixels, its labels are of 480x640"
    ):
        await evaluate(pipeline, folder, EstimateOptions(), task=task)
    photo = folder / "images" / "2.png"  # turned upright it has the size that the labels tell
    turn = files.png_chunk(b"eXIf", files.exif_block(6))
    photo.write_bytes(files.png_after_header(photo.read_bytes(), turn))
    await evaluate(pipeline, folder, EstimateOptions(), task=task)


async def test_a_network_that_sees_people_elsewhere_scores_zero(
    pipeline: Pipeline, folder: Path
) -> None:
    far = label(1, 1, BOXES[0])
    far["keypoints"] = [value + 200 * (i % 3 < 2) for i, value in enumerate(far["keypoints"])]
    write(folder, [far])
    report = await evaluate(pipeline, folder, EstimateOptions())
    assert report.keypoints is not None
    assert report.keypoints["ap"] == 0.0


def test_no_result_at_all_scores_zero_where_people_are_labelled(folder: Path) -> None:
    score = coco_scorer(load_data(folder))
    keypoints = dict.fromkeys(KEYPOINT_FIGURES, 0.0) | {"ap_medium": -1.0, "ar_medium": -1.0}
    assert score("keypoints", [], KEYPOINT_FIGURES) == keypoints
    assert score("bbox", [], BOX_FIGURES) == {"ap": 0.0, "ap50": 0.0}
    write(folder, [])
    score = coco_scorer(load_data(folder))
    assert score("keypoints", [], KEYPOINT_FIGURES) == dict.fromkeys(KEYPOINT_FIGURES, -1.0)


@pytest.mark.parametrize("person", [0, 1, 7])
async def test_only_annotations_of_people_count(
    pipeline: Pipeline, folder: Path, person: int
) -> None:
    labels = [label(1, 1, BOXES[0], category_id=person), label(2, 1, BOXES[1], category_id=18)]
    write(folder, labels)
    path = folder / "person_keypoints.json"
    categories = [{"id": 18, "name": "dog"}, {"id": person, "name": "person"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": categories}))
    report = await evaluate(pipeline, folder, EstimateOptions(decode="argmax"))
    assert report.keypoints is not None
    assert (report.people, report.keypoints["ap"]) == (1, 1.0)


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


@pytest.mark.parametrize("layout", ["coco", "coco/images"])
async def test_coco_as_published_gives_the_same_figures(
    pipeline: Pipeline, folder: Path, tmp_path: Path, layout: str
) -> None:
    labels = tmp_path / "coco" / "annotations" / "person_keypoints_val2017.json"
    labels.parent.mkdir(parents=True)
    (folder / "person_keypoints.json").rename(labels)
    (tmp_path / layout).mkdir(exist_ok=True)
    (folder / "images").rename(tmp_path / layout / "val2017")
    report = await evaluate(pipeline, labels, EstimateOptions(decode="argmax"))
    assert report.keypoints is not None
    assert (report.images, report.people, report.keypoints["ap"]) == (2, 2, 1.0)
    with pytest.raises(BadOption, match=r"give the file itself, as .*_val2017\.json"):
        load_data(tmp_path / "coco")


async def test_an_annotation_of_id_0_counts_like_any_other(
    pipeline: Pipeline, folder: Path
) -> None:
    write(folder, [label(0, 1, BOXES[0]), label(1, 2, BOXES[1])])
    report = await evaluate(pipeline, folder, EstimateOptions(decode="argmax"))
    assert report.keypoints is not None
    assert report.keypoints["ap"] == 1.0


async def test_labels_of_boxes_alone_score_a_detector(pipeline: Pipeline, folder: Path) -> None:
    found = await pipeline.find_people(encode(make_photo(width=640, height=480)), EstimateOptions())
    labels = [label(i, i % 2 + 1, box) for i, box in enumerate([*found.xywh.tolist()] * 2, 1)]
    for row in labels:
        del row["keypoints"], row["num_keypoints"], row["iscrowd"]
    write(folder, labels)
    report = await evaluate(pipeline, folder, EstimateOptions(), task="boxes")
    assert report.boxes is not None
    assert 0 < report.boxes["ap"] <= 1


def test_missing_photos_are_counted_and_the_first_is_named(folder: Path) -> None:
    (folder / "images" / "2.png").unlink()
    with pytest.raises(BadOption, match=r"photo .*2\.png is missing; 1 of the 2 listed are"):
        load_data(folder)


async def test_a_photo_that_cannot_be_decoded_is_named(pipeline: Pipeline, folder: Path) -> None:
    (folder / "images" / "2.png").write_bytes(b"no picture")
    with pytest.raises(BadOption, match=r"2\.png: "):
        await evaluate(pipeline, folder, EstimateOptions())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"[", "is not COCO keypoint annotations"),
        (b"\xff\xfe\x00\x80", "is not COCO keypoint annotations"),  # not text at all
        (b"[" * 100_000, "is not COCO keypoint annotations"),
        (b"[]", "it holds \\[\\], not an object"),
        (b'{"images": []}', "is not COCO keypoint annotations: annotations is missing"),
        (b'{"images": [], "annotations": []}', "lists no images"),
    ],
)
def test_a_folder_without_usable_labels_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "person_keypoints.json").write_bytes(content)
    with pytest.raises(BadOption, match=words) as caught:
        load_data(tmp_path)
    assert "person_keypoints.json" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bbox": [1.0, float("nan"), 3.0, 4.0]}, "of image 1: bbox holds NaN"),
        ({"bbox": [1.0, 2.0, 0.0, 4.0]}, "of image 1: bbox .* positive width and height"),
        ({"area": None}, "of image 1: area is None; it must be a number"),
        ({"area": 10**400}, r"of image 1: area is 1000.* must be a number from 0 to 1e\+12"),
        ({"category_id": "person"}, "of image 1: category_id is 'person'; it must be a number"),
        ({"num_keypoints": "17"}, "of image 1: num_keypoints is '17'; it must be an integer"),
        ({"keypoints": [1, 2, 3]}, r"of image 1: keypoints is \[1, 2, 3\]; it must be 51 numbers"),
    ],
)
def test_a_bad_annotation_names_its_image_and_field(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    write(folder, [label(7, 1, BOXES[0], **changes)])
    with pytest.raises(BadOption, match=f"person_keypoints.json: annotation 7 {words}"):
        load_data(folder)


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
