"""The people whom a network sees worst: what it says on the left, the labels on the right."""

from collections.abc import Sequence

import cv2
import numpy as np

from posegate.geometry import apply_affine, box_to_region, region_to_crop_affine
from posegate.image import ImageLimits, decode_image
from posegate.render import draw_poses
from posegate.skeleton import COCO_KEYPOINTS
from posegate.types import F64, U8, Boxes, Image, Keypoints, Poses
from posenets.evaluation.scenes import Scene

_TILE_WH = (240, 320)
_COLUMNS = 3
_LIMITS = ImageLimits(max_bytes=2**30, max_pixels=2**28)
_TEXT = (cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)


def draw_worst(
    scenes: Sequence[Scene], found: Sequence[Keypoints], people_oks: F64, *, count: int
) -> U8 | None:
    """(H, W, 3) uint8 BGR of the `count` people of lowest OKS; None where nobody is labelled."""
    places = [(s, p) for s, scene in enumerate(scenes) for p in range(len(scene.boxes_xywh))]
    order = [i for i in np.argsort(people_oks) if np.isfinite(people_oks[i])][:count]
    if not order:
        return None
    tiles = []
    for index in order:
        scene, person = scenes[places[index][0]], places[index][1]
        tiles.append(_pair(scene, found[places[index][0]], person, float(people_oks[index])))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _COLUMNS)
    rows = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    return np.asarray(np.vstack([np.hstack(row) for row in rows]), np.uint8)


def _pair(scene: Scene, found: Keypoints, person: int, oks: float) -> U8:
    assert scene.keypoints is not None
    truth = scene.keypoints[person]
    labelled = Keypoints(truth[None, :, :2], np.minimum(truth[None, :, 2], 1))
    said = Keypoints(found.xy[person][None], found.scores[person][None])
    tiles = [_tile(scene, person, said, minimum=0.1), _tile(scene, person, labelled, minimum=0.5)]
    pair = np.ascontiguousarray(np.hstack(tiles))
    cv2.putText(pair, f"{scene.name}  OKS {oks:.2f}", (6, _TILE_WH[1] - 8), *_TEXT)
    return pair


def _tile(scene: Scene, person: int, keypoints: Keypoints, *, minimum: float) -> U8:
    x, y, w, h = scene.boxes_xywh[person]
    box = np.array([[x, y, x + w, y + h]], np.float32)
    region = box_to_region(box, aspect=_TILE_WH[0] / _TILE_WH[1], padding=1.4)
    to_tile = region_to_crop_affine(region, size_wh=_TILE_WH)
    picture = decode_image(scene.photo.read(), _LIMITS).pixels_bgr
    tile = Image(np.asarray(cv2.warpAffine(picture, to_tile[0], _TILE_WH), np.uint8))
    corners = apply_affine(to_tile, box.reshape(1, 2, 2)).reshape(1, 4)
    placed = Keypoints(apply_affine(to_tile, keypoints.xy), keypoints.scores)
    poses = Poses(Boxes(corners, np.ones(1, np.float32)), placed, COCO_KEYPOINTS)
    return draw_poses(tile, poses, min_keypoint_score=minimum).pixels_bgr
