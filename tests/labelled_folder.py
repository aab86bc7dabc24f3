"""A COCO-form folder whose labels are what the made pose network sees, so that it scores one."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fakes import MADE_JOINTS_CROP
from posegate.geometry import apply_affine, box_to_region, invert_affine, region_to_crop_affine

BOXES = [[60.0, 80.0, 150.0, 240.0], [300.0, 60.0, 200.0, 300.0]]


def seen_by_the_made_network(box: list[float]) -> np.ndarray:
    """(17, 2) where the made pose network sees the joints of a box's person."""
    x, y, width, height = box
    region = box_to_region(
        np.array([[x, y, x + width, y + height]], np.float32), aspect=48 / 64, padding=1.25
    )
    crop_to_image = invert_affine(region_to_crop_affine(region, size_wh=(48, 64)))
    return apply_affine(crop_to_image, MADE_JOINTS_CROP[None])[0]


def label(number: int, image_id: int, box: list[float], **changes: Any) -> dict[str, Any]:
    joints = np.column_stack([seen_by_the_made_network(box), np.full(17, 2.0)])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": box,
        "area": box[2] * box[3] * 0.6,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": joints.reshape(-1).tolist(),
        **changes,
    }


def write(folder: Path, labels: list[dict[str, Any]]) -> None:
    images = [{"id": i, "file_name": f"{i}.png"} for i in (1, 2)]
    document = {
        "images": images,
        "annotations": labels,
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "person_keypoints.json").write_text(json.dumps(document))
