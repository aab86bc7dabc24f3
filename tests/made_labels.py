"""Made photos of coloured joints and their COCO labels."""

from typing import Any

import cv2
import numpy as np

PHOTOS = 6


def made_photo(index: int) -> tuple[np.ndarray, list[float]]:
    """A picture with 17 dots on a grid, and their COCO keypoints."""
    pixels = np.full((240, 200, 3), 60 + 5 * index, np.uint8)
    keypoints: list[float] = []
    for joint in range(17):
        x, y = 50 + 25 * (joint % 5), 40 + 40 * (joint // 5)
        cv2.circle(pixels, (x, y), 4, (15 * joint, 255 - 15 * joint, 200), -1)
        keypoints += [x, y, 2 if joint % 2 else 1]
    return pixels, keypoints


def made_labels(**image_extra: Any) -> dict[str, Any]:
    images, annotations = [], []
    for index in range(PHOTOS):
        _, keypoints = made_photo(index)
        images.append({"id": index, "file_name": f"{index}.png", "width": 200, "height": 240})
        images[-1] |= {"source": "left" if index % 2 else "right"} | image_extra
        annotations.append(
            {
                "id": index,
                "image_id": index,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [40.0, 30.0, 120.0, 150.0],
                "area": 18000.0,
                "keypoints": keypoints,
                "num_keypoints": 17,
                "keypoint_scores": [0.5] * 17,
            }
        )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}]}


def encoded(index: int) -> bytes:
    return bytes(cv2.imencode(".png", made_photo(index)[0])[1])
