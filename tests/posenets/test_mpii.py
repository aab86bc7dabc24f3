"""MPII's two label forms -> records: posenets.training.mpii."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from posenets.training.mpii import MPII_KEYPOINTS, read_mpii_json, read_mpii_mat
from posenets.training.records import BadData, LabelledImage

HEAD = (101.0, 51.0, 131.0, 91.0)
"""Corners of the made head box: 30 by 40 pixels, so a diagonal of 50 and a head size of 30."""


def joints(shift: float) -> list[list[float]]:
    return [[100 + 10 * joint + shift, 60 + 5 * joint] for joint in range(16)]


def entry(name: str, shift: float) -> dict[str, Any]:
    return {
        "image": name,
        "center": [150.0 + shift, 120.0],
        "scale": 1.5,
        "joints": joints(shift),
        "joints_vis": [1] * 15 + [0],
    }


ENTRIES = [entry("a.jpg", 0), entry("b.jpg", 7), entry("a.jpg", 40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "none.jpg", "test.jpg"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    return tmp_path


def write_json(folder: Path, entries: list[dict[str, Any]]) -> Path:
    labels = folder / "valid.json"
    labels.write_text(json.dumps(entries))
    return labels


def person(made: dict[str, Any]) -> dict[str, Any]:
    points = [
        {"x": x, "y": y, "id": joint, "is_visible": joint % 2}
        for joint, (x, y) in enumerate(made["joints"])
        if made["joints_vis"][joint]
    ]
    centre = {"x": made["center"][0], "y": made["center"][1]}
    head = dict(zip(("x1", "y1", "x2", "y2"), HEAD, strict=True))
    return head | {
        "scale": made["scale"],
        "objpos": centre,
        "annopoints": {"point": np.array(points, object)},
    }


def write_mat(folder: Path, **second: Any) -> Path:
    """Two people, one, a person without joints, nobody at all, and a test photo.

    `second` changes fields of the second photo's person.
    """
    head_only = dict(zip(("x1", "y1", "x2", "y2"), HEAD, strict=True)) | {"annopoints": []}
    photos = [
        ("a.jpg", [person(ENTRIES[0]), person(ENTRIES[2]), head_only]),
        ("b.jpg", [person(ENTRIES[1]) | second]),
        ("none.jpg", []),
        ("test.jpg", [person(ENTRIES[1])]),
    ]
    release = {
        "annolist": np.array(
            [
                {"image": {"name": name}, "annorect": np.array(people, object)}
                for name, people in photos
            ],
            object,
        ),
        "img_train": [1, 1, 1, 0],
    }
    labels = folder / "mpii.mat"
    savemat(labels, {"RELEASE": release})
    return labels


def by_name(images: Any) -> dict[str, LabelledImage]:
    return {image.name: image for image in images}


def test_json_people_are_gathered_by_photo_and_count_from_zero(folder: Path) -> None:
    images = by_name(read_mpii_json(write_json(folder, ENTRIES)))
    assert {name: len(image.boxes_xywh) for name, image in images.items()} == {
        "a.jpg": 2,
        "b.jpg": 1,
    }
    record = images["a.jpg"]
    assert (record.joint_names, record.source, record.photo.read()) == (
        MPII_KEYPOINTS,
        "mpii",
        b"a.jpg",
    )
    np.testing.assert_array_equal(record.keypoints[1, 2], [159, 69, 2])
    np.testing.assert_array_equal(record.keypoints[:, 15], 0)
    assert np.isnan(record.head_sizes).all()


def test_the_box_is_the_persons_height_below_its_centre_as_narrow_as_a_crop(folder: Path) -> None:
    box = next(read_mpii_json(write_json(folder, ENTRIES))).boxes_xywh[0]
    np.testing.assert_allclose(box[2:], [225, 300])
    np.testing.assert_allclose(box[:2] + box[2:] / 2, [149, 119 + 15 * 1.5])


def test_mat_and_json_give_the_same_people(folder: Path) -> None:
    heads = folder / "gt_valid.mat"
    corners = np.array(HEAD).reshape(2, 2, 1)
    savemat(heads, {"headboxes_src": np.repeat(corners, len(ENTRIES), 2)})
    ours = by_name(read_mpii_json(write_json(folder, ENTRIES), heads=heads))
    theirs = by_name(read_mpii_mat(write_mat(folder)))
    assert list(ours) == list(theirs)
    for name, image in ours.items():
        np.testing.assert_allclose(image.head_sizes, 30)
        for field in ("boxes_xywh", "keypoints", "head_sizes"):
            np.testing.assert_allclose(getattr(image, field), getattr(theirs[name], field))


def test_test_photos_are_read_when_asked_for(folder: Path) -> None:
    labels = write_mat(folder)
    assert list(by_name(read_mpii_mat(labels, train=False))) == ["test.jpg"]
    assert list(by_name(read_mpii_mat(labels, train=None))) == ["a.jpg", "b.jpg", "test.jpg"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": float("nan")}, "entry 1, image a.jpg: scale holds NaN"),
        ({"joints": [[float("nan"), 1.0]] * 16}, "entry 1, image a.jpg: joints holds NaN"),
        ({"joints_vis": [float("nan")] * 16}, "entry 1, image a.jpg: joints_vis holds NaN"),
        ({"joints": [[1.0, 1.0]] * 15}, "entry 1, image a.jpg: joints is not 32 numbers"),
        ({"scale": -1.0}, "image a.jpg: scale is not above 0"),
        ({"center": ["left", 10**400]}, "entry 1, image a.jpg: center is not 2 numbers"),
        ({"center": ...}, "entry 1, image a.jpg: center is missing"),
        ({"image": ...}, "entry 1: image is missing"),
        ({"image": "gone.jpg"}, "gone.jpg is missing"),
    ],
)
def test_bad_labels_name_file_entry_and_field(
    folder: Path, change: dict[str, Any], words: str
) -> None:
    bad = {key: value for key, value in (ENTRIES[0] | change).items() if value is not ...}
    labels = write_json(folder, [ENTRIES[1], bad])
    with pytest.raises(BadData, match=words) as caught:
        list(read_mpii_json(labels))
    assert str(labels) in str(caught.value)


@pytest.mark.parametrize("content", ["{}", "[", "7"])
def test_what_is_no_list_is_refused(folder: Path, content: str) -> None:
    labels = folder / "valid.json"
    labels.write_text(content)
    with pytest.raises(BadData, match=r"valid\.json: not an MPII label file"):
        list(read_mpii_json(labels))


@pytest.mark.parametrize("boxes", ["text", [1.0, 2.0, 3.0], np.array([["cell"]], object)])
def test_head_boxes_of_another_form_are_named(folder: Path, boxes: object) -> None:
    savemat(folder / "gt_valid.mat", {"headboxes_src": boxes})
    labels = write_json(folder, ENTRIES)
    with pytest.raises(BadData, match=r"gt_valid\.mat: headboxes_src is not \(2, 2, N\) numbers"):
        list(read_mpii_json(labels, heads=folder / "gt_valid.mat"))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"x1": "left"}, "image b.jpg: a person has no head box of four numbers"),
        ({"y2": []}, "image b.jpg: a person has no head box of four numbers"),
        ({"scale": -2.0}, "image b.jpg: scale is not above 0"),
    ],
)
def test_bad_people_of_the_release_are_named(
    folder: Path, second: dict[str, Any], words: str
) -> None:
    labels = write_mat(folder, **second)
    with pytest.raises(BadData, match=rf"^{re.escape(str(labels))}: {words}$"):
        list(read_mpii_mat(labels))


def test_photos_may_lie_beside_the_folder_of_the_labels(folder: Path) -> None:
    (folder / "annot").mkdir()
    labels = write_json(folder / "annot", ENTRIES)
    assert len(by_name(read_mpii_json(labels))) == 2
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(BadData, match=r"annot/images/a\.jpg is missing, and so is .*images/a\.jpg"):
        list(read_mpii_json(labels))


def test_other_files_are_refused(folder: Path) -> None:
    with pytest.raises(BadData, match=r"nowhere\.mat is no file"):
        list(read_mpii_mat(folder / "nowhere.mat"))
    other = folder / "other.mat"
    other.write_bytes(b"MATLAB 5.0 MAT-file, cut short")
    with pytest.raises(BadData, match="not a MATLAB file"):
        list(read_mpii_mat(other))
    savemat(other, {"joints": [1]})
    with pytest.raises(BadData, match="RELEASE is missing"):
        list(read_mpii_mat(other))
    savemat(other, {"RELEASE": {"version": 1}})
    with pytest.raises(BadData, match="not MPII's RELEASE structure"):
        list(read_mpii_mat(other))
    savemat(other, {"headboxes_src": np.zeros((2, 2, 1))})
    with pytest.raises(BadData, match="1 head boxes for the 3 people"):
        list(read_mpii_json(write_json(folder, ENTRIES), heads=other))
