"""The model card of a network trained here, written beside its ONNX file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from posegate.card import ModelCard, Training
from posegate.skeleton import COCO_KEYPOINTS

SCORE_POSE = (
    "Peak of the joint's heatmap, clipped to [0, 1]: near the share of Gaussian height that the "
    "network dares to draw, not a probability."
)
SCORE_DETECT = "How well box and person are expected to agree: the predicted IoU of a person's box."


def pose_card(
    *,
    name: str,
    description: str,
    size_wh: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    parameters: int,
    gflops: float,
    sigma: float,
    training: Training,
    sha256: str,
) -> dict[str, Any]:
    """Card fields of a heatmap network with stride 4 and COCO's 17 keypoints."""
    width, height = size_wh
    return _checked(
        {
            "name": name,
            "task": "pose",
            "description": description,
            "input": _input(size_wh, mean, std),
            "crop": {"padding": 1.25},
            "output": {"names": ["heatmaps"]},
            "codec": {
                "kind": "heatmap",
                "width": width // 4,
                "height": height // 4,
                "sigma": sigma,
                "scale": [4.0, 4.0],
                "offset": [0.0, 0.0],
            },
            "keypoints": list(COCO_KEYPOINTS),
            "score": SCORE_POSE,
            "parameters": parameters,
            "gflops": round(gflops, 4),
            "licence": "Apache-2.0 (weights: see training.licence)",
            "training": training.model_dump(mode="json"),
            "sha256": sha256,
        }
    )


def detect_card(
    *,
    name: str,
    description: str,
    size_wh: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    parameters: int,
    gflops: float,
    training: Training,
    sha256: str,
) -> dict[str, Any]:
    """Card fields of the person detector."""
    return _checked(
        {
            "name": name,
            "task": "detect",
            "description": description,
            "input": _input(size_wh, mean, std),
            "letterbox": {"fill": 114},
            "output": {"names": ["boxes", "scores"]},
            "nms": {"iou": 0.6, "min_score": 0.05, "max_boxes": 300},
            "score": SCORE_DETECT,
            "parameters": parameters,
            "gflops": round(gflops, 4),
            "licence": "Apache-2.0 (weights: see training.licence)",
            "training": training.model_dump(mode="json"),
            "sha256": sha256,
        }
    )


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write `posegate.json`; figures measured on the same file (sha256) are kept."""
    path = folder / "posegate.json"
    if path.exists():
        former = json.loads(path.read_text())
        if former.get("sha256") == card["sha256"]:
            kept = ("accuracy", "verification", "default")
            card = card | {key: former[key] for key in kept if key in former}
    path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _input(
    size_wh: tuple[int, int], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> dict[str, Any]:
    width, height = size_wh
    return {
        "name": "input",
        "width": width,
        "height": height,
        "color": "rgb",
        "mean": list(mean),
        "std": list(std),
    }


def _checked(card: dict[str, Any]) -> dict[str, Any]:
    ModelCard.model_validate(card)
    return card
