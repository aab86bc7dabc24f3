import numpy as np
import pytest

from posegate.errors import TooLarge
from posegate.image import ImageLimits, decode_image
from posegate.render import (
    BOX_BGR,
    CENTRE_BGR,
    LEFT_BGR,
    RIGHT_BGR,
    draw_poses,
    drawn_file,
    encode_image,
)
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import Boxes, Image, Keypoints, Poses


def blank(width: int = 640, height: int = 480) -> Image:
    return Image(np.full((height, width, 3), 128, np.uint8))


def one_person(names: tuple[str, ...] = COCO_KEYPOINTS, score: float = 0.9) -> Poses:
    """A person whose joints stand on a 5-wide grid inside the box (100, 100, 500, 400)."""
    place = np.arange(len(names))
    xy = np.stack([150 + 70 * (place % 5), 150 + 60 * (place // 5)], axis=1)
    return Poses(
        Boxes(np.array([[100, 100, 500, 400]], np.float32), np.ones(1, np.float32)),
        Keypoints(xy[None].astype(np.float32), np.full((1, len(names)), score, np.float32)),
        names,
    )


def is_color(image: Image, xy: np.ndarray, color: tuple[int, int, int]) -> bool:
    x, y = np.round(xy).astype(int)
    return bool(np.abs(image.pixels_bgr[y, x].astype(int) - color).max() < 12)


def test_joints_have_the_colour_of_their_side() -> None:
    poses = one_person()
    drawn = draw_poses(blank(), poses)
    for name, xy in zip(COCO_KEYPOINTS, poses.keypoints.xy[0], strict=True):
        side = name.split("_")[0]
        assert is_color(drawn, xy, {"left": LEFT_BGR, "right": RIGHT_BGR}.get(side, CENTRE_BGR))


def test_limbs_and_box_are_drawn() -> None:
    poses = one_person()
    drawn = draw_poses(blank(), poses)
    xy = dict(zip(COCO_KEYPOINTS, poses.keypoints.xy[0], strict=True))
    near_wrist = 0.8 * xy["left_wrist"] + 0.2 * xy["left_elbow"]
    assert is_color(drawn, near_wrist, LEFT_BGR)
    assert is_color(drawn, np.array([300, 100]), BOX_BGR)
    assert is_color(drawn, np.array([100, 250]), BOX_BGR)


def test_the_photo_itself_is_not_drawn_on() -> None:
    image = blank()
    draw_poses(image, one_person())
    assert (image.pixels_bgr == 128).all()


def test_joints_below_the_score_are_left_out_with_their_limbs() -> None:
    poses = one_person(score=0.1)
    drawn = draw_poses(blank(), poses, min_keypoint_score=0.2)
    inside = drawn.pixels_bgr[110:390, 110:490]
    assert (inside == 128).all()


# score of all joints, least score asked for, whether they are drawn
@pytest.mark.parametrize(
    ("score", "least", "drawn"),
    [(0.2, 0.0, True), (0.19, 0.0, False), (0.6, 0.5, True), (0.5, 0.6, False)],
)
def test_a_file_shows_joints_of_0_2_or_of_the_score_asked_for(
    score: float, least: float, drawn: bool
) -> None:
    data = drawn_file(blank(), one_person(score=score), kind="png", min_keypoint_score=least)
    inside = decode_image(data, ImageLimits()).pixels_bgr[110:390, 110:490]
    assert (inside != 128).any() == drawn


def test_nobody_leaves_the_picture_as_it_is() -> None:
    nobody = Poses(
        Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32)),
        Keypoints(np.empty((0, 17, 2), np.float32), np.empty((0, 17), np.float32)),
        COCO_KEYPOINTS,
    )
    assert (draw_poses(blank(), nobody).pixels_bgr == 128).all()


@pytest.mark.parametrize("names", [("head", "tail"), ("left_hip", "left_knee", "horn")])
def test_other_skeletons_are_drawn_as_far_as_they_are_known(names: tuple[str, ...]) -> None:
    poses = one_person(names)
    drawn = draw_poses(blank(), poses)
    assert not is_color(drawn, poses.keypoints.xy[0, 0], (128, 128, 128))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30, 4e9])
def test_joints_and_boxes_far_outside_do_no_harm(value: float) -> None:
    poses = one_person()
    xy = poses.keypoints.xy.copy()
    xy[0, 3] = value
    boxes = Boxes(np.array([[value, 0, value, 9]], np.float32), poses.boxes.scores)
    with np.errstate(invalid="ignore"):
        drawn = draw_poses(
            blank(), Poses(boxes, Keypoints(xy, poses.keypoints.scores), poses.names)
        )
    assert not is_color(drawn, xy[0, 0], (128, 128, 128))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 500), (4000, 3000)])
def test_any_size_can_be_drawn_on(width: int, height: int) -> None:
    drawn = draw_poses(blank(width, height), one_person())
    assert (drawn.width, drawn.height) == (width, height)


def test_people_are_drawn_where_they_are_on_a_very_wide_picture() -> None:
    person = one_person()
    aside = np.float32([39_000, 0])
    boxes = Boxes(person.boxes.xyxy + np.tile(aside, 2), person.boxes.scores)
    keypoints = Keypoints(person.keypoints.xy + aside, person.keypoints.scores)
    drawn = draw_poses(blank(40_000, 480), Poses(boxes, keypoints, person.names))
    changed = np.flatnonzero((drawn.pixels_bgr != 128).any(axis=(0, 2)))
    left, _, right, _ = boxes.xyxy[0]
    assert changed.min() > min(left, keypoints.xy[..., 0].min()) - 200
    assert changed.max() < max(right, keypoints.xy[..., 0].max()) + 200


def test_a_picture_longer_than_a_jpeg_can_be_is_refused_as_one() -> None:
    longest = blank(65_501, 2)
    with pytest.raises(TooLarge, match="65500 pixels a side, this picture 65501x2"):
        encode_image(longest, "jpeg")
    assert encode_image(longest, "png")
    assert encode_image(blank(65_500, 2), "jpeg")


def test_lines_are_wider_on_a_large_picture() -> None:
    def box_pixels(side: int) -> int:
        scale = side / 640
        poses = one_person(score=0.0)
        large = Poses(
            Boxes(poses.boxes.xyxy * np.float32(scale), poses.boxes.scores),
            poses.keypoints,
            poses.names,
        )
        drawn = draw_poses(blank(side, side), large)
        column = drawn.pixels_bgr[:, round(300 * scale)]
        return int((column != 128).any(axis=1).sum())

    assert box_pixels(3200) > 1.5 * box_pixels(640)


def test_joints_are_finer_on_a_small_person_whichever_way_they_lie() -> None:
    def joint_pixels(box: list[float]) -> int:
        poses = one_person(("nose",))
        boxes = Boxes(np.array([box], np.float32), poses.boxes.scores)
        drawn = draw_poses(blank(3200, 3200), Poses(boxes, poses.keypoints, poses.names))
        return int((drawn.pixels_bgr[120:180, 120:180] != 128).any(axis=2).sum())

    sides = ((90, 90), (900, 90), (90, 900))
    small, wide, high = ([2000, 2000, 2000 + w, 2000 + h] for w, h in sides)
    assert joint_pixels(wide) == joint_pixels(high) > 3 * joint_pixels(small)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_encoded_picture_reads_back(kind: str) -> None:
    drawn = draw_poses(blank(), one_person())
    back = decode_image(encode_image(drawn, kind), ImageLimits())
    difference = np.abs(back.pixels_bgr.astype(int) - drawn.pixels_bgr)
    assert difference.mean() < (2 if kind == "jpeg" else 1e-9)
