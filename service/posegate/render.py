"""poses -> picture: boxes, limbs and joints drawn over the photo, and the file made of it.

People of about one size are drawn together, one OpenCV call per colour.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from posegate.errors import TooLarge
from posegate.skeleton import COCO_KEYPOINTS, COCO_LIMBS
from posegate.types import F32, U8, Boxes, Image, Keypoints, Poses

LEFT_BGR = (70, 200, 60)
RIGHT_BGR = (30, 120, 255)
CENTRE_BGR = (255, 200, 50)
BOX_BGR = (240, 240, 240)
OUTLINE_BGR = (30, 30, 30)
MIN_DRAWN_SCORE = 0.2
"""Joints the network is less sure of than this only clutter a picture."""

_FRACTION_BITS = 4
_FARTHEST = 2.0**20  # pixels of a side, the most that OpenCV reads
_MAX_JPEG_SIDE = 65_500
_ENCODINGS = {
    "jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]),
    "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
}


def drawn_file(image: Image, poses: Poses, *, kind: str, min_keypoint_score: float) -> bytes:
    """The picture with its people as a file; joints below MIN_DRAWN_SCORE are never drawn."""
    minimum = max(min_keypoint_score, MIN_DRAWN_SCORE)
    return encode_image(draw_poses(image, poses, min_keypoint_score=minimum), kind)


def draw_poses(image: Image, poses: Poses, *, min_keypoint_score: float = MIN_DRAWN_SCORE) -> Image:
    """A copy of the image with every person's box, and the limbs and joints of at least that score.

    The person's own left is green, right orange, the middle blue; dark edges keep them readable
    on any ground. Widths follow the size of the picture, and are finer on a small person.
    """
    canvas = image.pixels_bgr.copy()
    widest = max(1, round(max(image.width, image.height) / 400))
    longest_side = poses.boxes.xywh[:, 2:].max(axis=1, initial=0)
    widths = np.nan_to_num(longest_side / 100).round().clip(1, widest).astype(int)
    _draw_boxes(canvas, poses.boxes, widest)
    for width in np.unique(widths):
        same = widths == width
        keypoints = Keypoints(xy=poses.keypoints.xy[same], scores=poses.keypoints.scores[same])
        _draw_skeletons(canvas, keypoints, poses.names, min_keypoint_score, int(width))
    return Image(canvas)


def encode_image(image: Image, kind: str) -> bytes:
    """The picture as a file of that kind, "jpeg" (quality 90) or "png".

    Raises TooLarge for a JPEG with a side of more than 65,500 pixels, which the format cannot hold.
    """
    if kind == "jpeg" and max(image.width, image.height) > _MAX_JPEG_SIDE:
        raise TooLarge(
            f"a drawn JPEG has at most {_MAX_JPEG_SIDE} pixels a side, this picture "
            f"{image.width}x{image.height}; ask for image/png"
        )
    extension, parameters = _ENCODINGS[kind]
    written, data = cv2.imencode(extension, image.pixels_bgr, parameters)
    assert written, f"OpenCV could not write {image.width} x {image.height} pixels as {kind}"
    return data.tobytes()


def _draw_boxes(canvas: U8, boxes: Boxes, width: int) -> None:
    left, top, right, bottom = boxes.xyxy.T
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1)
    _draw_lines(canvas, corners.reshape(-1, 4, 2), BOX_BGR, width, closed=True)


def _draw_skeletons(
    canvas: U8, keypoints: Keypoints, names: tuple[str, ...], min_score: float, width: int
) -> None:
    """Limbs two `width` wide under joints three `width` wide."""
    sides = np.array([_side(name) for name in names])
    seen = keypoints.scores >= min_score
    limbs = _limbs_among(names)
    colors = [_limb_color(sides[limb]) for limb in limbs]
    for color in (CENTRE_BGR, RIGHT_BGR, LEFT_BGR):
        chosen = limbs[np.array([limb_color == color for limb_color in colors], bool)]
        lines = keypoints.xy[:, chosen]  # (P, limbs, 2, 2)
        _draw_lines(canvas, lines[seen[:, chosen].all(axis=2)], color, 2 * width)
    for color, side in ((CENTRE_BGR, ""), (RIGHT_BGR, "right"), (LEFT_BGR, "left")):
        joints = keypoints.xy[seen & (sides == side)]
        dots = np.repeat(joints[:, None], 2, axis=1)  # a line of no length is a round dot
        _draw_lines(canvas, dots, color, 3 * width + 1)


def _draw_lines(
    canvas: U8, points: F32, color: tuple[int, int, int], width: int, *, closed: bool = False
) -> None:
    """Draws lines (N, corners, 2) in place; to 1/16 px, and as far out as OpenCV can count."""
    near = np.nan_to_num(points).clip(-_FARTHEST, _FARTHEST)
    fixed: NDArray[np.int32] = (near * 2**_FRACTION_BITS).round().astype(np.int32)
    for ink, thickness in ((OUTLINE_BGR, width + 2), (color, width)):
        cv2.polylines(
            canvas, list(fixed), closed, ink, thickness, cv2.LINE_AA, shift=_FRACTION_BITS
        )


def _side(name: str) -> str:
    return next((side for side in ("left", "right") if name.startswith(side + "_")), "")


def _limb_color(sides: NDArray[np.str_]) -> tuple[int, int, int]:
    """`sides` (2,) of a limb's ends: the colour of a side if either end is on it alone."""
    named = set(sides.tolist()) - {""}
    return {"left": LEFT_BGR, "right": RIGHT_BGR}[named.pop()] if len(named) == 1 else CENTRE_BGR


def _limbs_among(names: tuple[str, ...]) -> NDArray[np.intp]:
    """(limbs, 2) indices into `names` of the COCO limbs whose two joints are among them."""
    index = {name: i for i, name in enumerate(names)}
    pairs = [(COCO_KEYPOINTS[a], COCO_KEYPOINTS[b]) for a, b in COCO_LIMBS]
    found = [(index[a], index[b]) for a, b in pairs if a in index and b in index]
    return np.array(found, np.intp).reshape(-1, 2)
