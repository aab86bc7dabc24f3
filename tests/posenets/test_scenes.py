"""labelled photos -> what an evaluation looks at: posenets.evaluation.scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from labelled_folder import BOXES, label, write
from posenets.evaluation.scenes import coco_scenes, mpii_scenes, with_boxes
from posenets.training.people import read_people
from posenets.training.records import BadData


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos that nobody decodes."""
    (tmp_path / "images").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "images" / name).write_bytes(b"photo")
    return tmp_path


@pytest.fixture
def mpii(photos: Path) -> Path:
    """Two people of MPII in one photo."""
    person = {"image": "1.png", "center": [50, 50], "scale": 1.0}
    person |= {"joints": [[9, 9]] * 16, "joints_vis": [1] * 16}
    (photos / "valid.json").write_text(json.dumps([person, person]))
    return photos / "valid.json"


def head_boxes(folder: Path, *diagonals: float) -> Path:
    corners = np.array([[[0, 0], [0, diagonal]] for diagonal in diagonals], float)
    savemat(folder / "heads.mat", {"headboxes_src": corners.transpose(1, 2, 0)})
    return folder / "heads.mat"


def test_people_without_a_count_of_keypoints_are_those_that_have_some(photos: Path) -> None:
    people = [label(1, 1, BOXES[0]), label(2, 2, BOXES[1], keypoints=[0] * 51)]
    for person in people:
        del person["num_keypoints"]
    write(photos, people)
    scenes, _ = coco_scenes(photos)
    assert [scene.boxes_xywh.tolist() for scene in scenes] == [[BOXES[0]], []]


def test_head_sizes_are_a_share_of_the_diagonals(mpii: Path) -> None:
    (scene,) = mpii_scenes(mpii, heads=head_boxes(mpii.parent, 50, 100))
    assert scene.head_sizes is not None
    np.testing.assert_allclose(scene.head_sizes, [30, 60])


@pytest.mark.parametrize("diagonal", [0.0, np.nan])
def test_a_head_box_without_size_is_named(mpii: Path, diagonal: float) -> None:
    heads = head_boxes(mpii.parent, 50, diagonal)
    with pytest.raises(BadData, match=r"image 1\.png: the head box of its person 2") as caught:
        mpii_scenes(mpii, heads=heads)
    assert str(heads) in str(caught.value)


def test_labels_without_head_boxes_ask_for_them(mpii: Path) -> None:
    with pytest.raises(BadData, match=r"valid\.json: .* give gt_valid.mat with --heads"):
        mpii_scenes(mpii)


def test_labels_of_nobody_are_refused(photos: Path) -> None:
    (photos / "empty.json").write_text("[]")
    with pytest.raises(BadData, match=r"empty\.json: holds no person"):
        mpii_scenes(photos / "empty.json")


def test_head_boxes_beside_mpiis_own_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"mpii\.mat: .* leave --heads out"):
        mpii_scenes(tmp_path / "mpii.mat", heads=tmp_path / "heads.mat")


def test_boxes_of_mpii_are_those_of_training(mpii: Path) -> None:
    (scene,) = mpii_scenes(mpii, heads=head_boxes(mpii.parent, 50, 100))
    (image,) = read_people(mpii)
    np.testing.assert_array_equal(scene.boxes_xywh, image.boxes_xywh)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bbox": [1, 2, 3, 4, 0.9]}, r"bbox is \[1, 2, 3, 4, 0\.9\]; it must be 4 numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bbox holds NaN, infinity"),
        ({"bbox": [1, 2, 3, -4]}, r"bbox \[1, 2, 3, -4\] must have positive width and height"),
        ({"bbox": None}, "bbox is None"),
        ({"score": float("nan")}, "score is nan; it must be a number"),
        ({"score": 1e30}, r"score is 1e\+30; it must be a number"),
        ({"image_id": "1"}, "image_id is '1'; it must be an integer"),
        ({"category_id": None}, "category_id is None; it must be an integer"),
    ],
)
def test_a_bad_row_of_a_detectors_boxes_is_named(
    photos: Path, changes: dict[str, Any], words: str
) -> None:
    write(photos, [label(1, 1, BOXES[0])])
    scenes, _ = coco_scenes(photos)
    row = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}
    results = photos / "boxes.json"
    results.write_text(json.dumps([row, row | changes]))
    with pytest.raises(BadData, match=rf"boxes\.json: entry 1: {words}"):
        with_boxes(scenes, results)


@pytest.mark.parametrize("content", ["{}", "[", "7", "[" * 100_000])
def test_a_file_that_is_no_list_of_boxes_is_named(photos: Path, content: str) -> None:
    (photos / "boxes.json").write_text(content)
    with pytest.raises(BadData, match=r"boxes\.json: not a COCO results file"):
        with_boxes([], photos / "boxes.json")
