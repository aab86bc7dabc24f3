"""The model card of a network trained here."""

from dataclasses import dataclass
from typing import Any

from posegate.card import ModelCard, Training
from posegate.skeleton import COCO_KEYPOINTS
from posenets.training.augment import HEATMAP_STRIDE

SCORE_POSE = (
    "Peak of the joint's heatmap, clipped to [0, 1]: near the share of Gaussian height that the "
    "network dares to draw, not a probability. A person's: the box's times the mean of the surer "
    "half of the joints."
)
SCORE_DETECT = "How well box and person are expected to agree: the predicted IoU of a person's box."
SCORE_CALIBRATED = (
    "Chance that the box overlaps a person by half, fitted on the training photos (Platt scaling)."
)


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What every card says. `gflops` are 10^9 multiply-accumulates of one input of `size_wh`."""

    name: str
    description: str
    size_wh: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    parameters: int
    gflops: float
    training: Training
    sha256: str


def pose_card(
    facts: NetworkFacts,
    *,
    sigma: float,
    joint_names: tuple[str, ...] = COCO_KEYPOINTS,
    to_corners: bool = False,
) -> dict[str, Any]:
    """Card of a network with a heatmap pixel to 4 x 4 of the input; `sigma` in heatmap px.

    `to_corners`: the maps' outermost pixels lie on the input's, as UDP draws them.
    """
    width, height = facts.size_wh
    scale = [float(HEATMAP_STRIDE)] * 2
    if to_corners:
        scale = [(side - 1) / (side // HEATMAP_STRIDE - 1) for side in facts.size_wh]
    codec = {
        "kind": "heatmap",
        "width": width // HEATMAP_STRIDE,
        "height": height // HEATMAP_STRIDE,
        "sigma": sigma,
        "scale": scale,
        "offset": [0.0, 0.0],
    }
    return _card(
        facts,
        task="pose",
        crop={"padding": 1.25},
        output={"names": ["heatmaps"]},
        codec=codec,
        keypoints=list(joint_names),
        score=SCORE_POSE,
    )


def detect_card(facts: NetworkFacts, *, calibrated: bool) -> dict[str, Any]:
    """Card of the person detector.

    Calibrated scores fall steeply, so less is cut before suppression.
    """
    min_score = 0.001 if calibrated else 0.05
    return _card(
        facts,
        task="detect",
        letterbox={"fill": 114},
        output={"names": ["boxes", "scores"]},
        nms={"iou": 0.6, "min_score": min_score, "max_boxes": 300},
        score=SCORE_CALIBRATED if calibrated else SCORE_DETECT,
    )


def _card(facts: NetworkFacts, *, task: str, **parts: Any) -> dict[str, Any]:
    width, height = facts.size_wh
    card = {
        "name": facts.name,
        "task": task,
        "description": facts.description,
        "input": {
            "name": "input",
            "width": width,
            "height": height,
            "color": "rgb",
            "mean": list(facts.mean),
            "std": list(facts.std),
        },
        **parts,
        "parameters": facts.parameters,
        "gflops": round(facts.gflops, 4),
        "licence": f"code: Apache-2.0; weights: {facts.training.licence or 'not stated'}",
        "training": facts.training.model_dump(mode="json"),
        "sha256": facts.sha256,
    }
    ModelCard.model_validate(card)
    return card
