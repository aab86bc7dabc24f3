"""Any label file -> people with COCO's joints: posenets.training.people."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from posegate.skeleton import COCO_KEYPOINTS
from posenets.training.cache import build_cache
from posenets.training.lsp import LSP_KEYPOINTS
from posenets.training.mpii import MPII_KEYPOINTS
from posenets.training.people import read_people
from posenets.training.records import BadData, read_labelled_images

FACE = slice(0, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    photo = np.full((240, 200, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "im0001.jpg"), photo)
    return tmp_path


@pytest.fixture
def mpii(folder: Path) -> Path:
    joints = [[40 + joint, 50 + 2 * joint] for joint in range(16)]
    person = {
        "image": "im0001.jpg",
        "center": [100.0, 100.0],
        "scale": 0.8,
        "joints": joints,
        "joints_vis": [1] * 16,
    }
    path = folder / "train.json"
    path.write_text(json.dumps([person]))
    return path


@pytest.fixture
def lsp(folder: Path) -> Path:
    joints = np.stack([40 + np.arange(14.0), 50 + 7 * np.arange(14.0), np.zeros(14)])[..., None]
    savemat(folder / "joints.mat", {"joints": joints})
    return folder / "joints.mat"


@pytest.mark.parametrize(("form", "names"), [("mpii", MPII_KEYPOINTS), ("lsp", LSP_KEYPOINTS)])
def test_joints_are_matched_by_name_and_the_face_is_unknown(
    request: pytest.FixtureRequest, form: str, names: tuple[str, ...]
) -> None:
    image = next(read_people(request.getfixturevalue(form)))
    assert image.joint_names == COCO_KEYPOINTS
    assert (image.keypoints[0, FACE] == 0).all()
    for joint in range(5, 17):
        theirs = names.index(COCO_KEYPOINTS[joint])
        assert image.keypoints[0, joint, 0] == 40 + theirs - 1
        assert image.keypoints[0, joint, 2] == 2


def test_mpii_boxes_become_as_narrow_as_a_crop(mpii: Path) -> None:
    box = next(read_people(mpii)).boxes_xywh[0]
    np.testing.assert_allclose(box[2:], [120, 160])
    np.testing.assert_allclose(box[0] + box[2] / 2, 99)


def test_coco_people_stay_as_they_are(coco_folder: Path) -> None:
    ours, theirs = next(read_people(coco_folder)), next(read_labelled_images(coco_folder))
    np.testing.assert_array_equal(ours.keypoints, theirs.keypoints)


@pytest.mark.parametrize("form", ["mpii", "lsp"])
def test_crops_for_training_are_cut_from_every_form(
    request: pytest.FixtureRequest, tmp_path: Path, form: str
) -> None:
    cache = build_cache(request.getfixturevalue(form), tmp_path / "cache")
    assert (len(cache), cache.joints.shape) == (1, (1, 17, 3))
    assert (cache.joints[0, 5:, 2] == 2).all()


@pytest.mark.parametrize("form", ["mpii", "lsp"])
def test_a_broken_photo_is_named_with_its_folder(
    request: pytest.FixtureRequest, folder: Path, form: str
) -> None:
    (folder / "images" / "im0001.jpg").write_bytes(b"no photo")
    with pytest.raises(BadData, match=r"images/im0001\.jpg: not a readable photo"):
        next(read_people(request.getfixturevalue(form))).photo.pixels_bgr()


def test_a_matlab_file_of_something_else_is_refused(folder: Path) -> None:
    savemat(folder / "other.mat", {"other": [1]})
    with pytest.raises(BadData, match="neither MPII's RELEASE nor LSP's joints"):
        read_people(folder / "other.mat")
    (folder / "cut.mat").write_bytes(b"cut")
    with pytest.raises(BadData, match="not a MATLAB file"):
        read_people(folder / "cut.mat")
