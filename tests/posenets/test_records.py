import json
import math
from pathlib import Path

import numpy as np
import pytest

from posenets.training.records import BadData, read_labelled_images


def test_folder_and_pack_give_the_same_people(coco_folder: Path, pack: Path) -> None:
    ours, theirs = list(read_labelled_images(coco_folder)), list(read_labelled_images(pack))
    assert [image.name for image in ours] == [image.name for image in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.jpeg == b.jpeg
        assert np.array_equal(a.keypoints, b.keypoints)
        assert a.source == b.source


def test_human_joints_count_fully_and_teacher_joints_by_their_score(coco_folder: Path) -> None:
    image = next(iter(read_labelled_images(coco_folder)))
    placed_by_hand = image.keypoints[0, :, 2] == 2
    assert np.array_equal(image.keypoint_scores[0], np.where(placed_by_hand, 1.0, 0.5))


def test_crowd_boxes_are_left_out(coco_folder: Path) -> None:
    labels = json.loads(coco_folder.read_text())
    labels["annotations"][0]["iscrowd"] = 1
    coco_folder.write_text(json.dumps(labels))
    assert len(next(iter(read_labelled_images(coco_folder))).boxes_xywh) == 0


def _no_images(labels: dict) -> None:  # type: ignore[type-arg]
    del labels["images"]


def _nan_keypoint(labels: dict) -> None:  # type: ignore[type-arg]
    labels["annotations"][2]["keypoints"][4] = math.nan


def _short_box(labels: dict) -> None:  # type: ignore[type-arg]
    labels["annotations"][1]["bbox"] = [1, 2, 3]


def _other_image(labels: dict) -> None:  # type: ignore[type-arg]
    labels["annotations"][1]["image_id"] = 99


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_no_images, "images"),  # a whole field missing
        (_nan_keypoint, "keypoints holds NaN"),  # NaN in an annotation
        (_short_box, "bbox"),  # three numbers for a box
        (_other_image, "99"),  # an annotation of no image
    ],
)
def test_bad_labels_name_file_and_field(coco_folder: Path, damage, named: str) -> None:  # type: ignore[no-untyped-def]
    labels = json.loads(coco_folder.read_text())
    damage(labels)
    coco_folder.write_text(json.dumps(labels))
    with pytest.raises(BadData, match=named) as caught:
        list(read_labelled_images(coco_folder))
    assert str(coco_folder) in str(caught.value)


def test_missing_photo_is_named(coco_folder: Path) -> None:
    (coco_folder.parent / "images" / "3.png").unlink()
    with pytest.raises(BadData, match=r"3\.png is missing"):
        list(read_labelled_images(coco_folder))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_shard_cut_short_is_named(pack: Path, share: float) -> None:
    shard = pack.with_name("pack_0.tar")
    whole = shard.read_bytes()
    content = len(whole.rstrip(b"\0"))
    shard.write_bytes(whole[: int(content * share)])
    with pytest.raises(BadData, match=r"pack_0\.tar"):
        list(read_labelled_images(pack))
