"""labelled photos -> what an evaluation looks at: posenets.evaluation.scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from labelled_folder import BOXES, label, write
from posenets.evaluation.scenes import coco_scenes, mpii_scenes
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
