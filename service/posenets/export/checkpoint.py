"""A training checkpoint -> a folder of the model repository: ONNX file and card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from posegate.card import Training
from posenets.counting import count_operations, count_parameters
from posenets.export.card import (
    NetworkFacts,
    detect_card,
    pose_card,
    sha256_of,
    write_card,
)
from posenets.export.onnx import export_onnx
from posenets.networks.folding import fold_for_export
from posenets.networks.person_detector import DetectorExport, PersonDetector
from posenets.training.checkpoint import (
    BadCheckpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from posenets.training.pose_task import sigma_for
from posenets.training.recipe import RECIPE
from posenets.training.start import make_network

START_FILE = "training.pt"
"""Beside the card: weights for `posenets train --start` to go on from."""


@dataclass(frozen=True, slots=True)
class CheckpointExport:
    """What to export, where to, and what the card says of its making."""

    checkpoint: Path
    repository: Path
    name: str
    description: str
    training: Training


def export_checkpoint(job: CheckpointExport) -> float:
    """Write `<repository>/<name>/1/model.onnx`, `posegate.json` and the weights to go on from.

    The moving average of the weights is exported at the size of the recipe's last phase. Returns
    the largest difference between network and file as a fraction of the outputs' range.
    """
    state = load_checkpoint(job.checkpoint)
    if "recipe" not in state:
        raise BadCheckpoint(f"{job.checkpoint}: field 'recipe' is missing; not made by train")
    recipe = RECIPE.validate_json(state["recipe"])
    network = make_network(recipe.network)
    load_weights(network, job.checkpoint)
    last = recipe.phases[-1]
    size_wh = (last.width, last.height)
    folder = job.repository / job.name
    path = folder / "1" / "model.onnx"
    detects = isinstance(network, PersonDetector)
    served: nn.Module = fold_for_export(network)
    if isinstance(network, PersonDetector):
        served = DetectorExport(network, **state.get("calibration", {}))
    names = ("boxes", "scores") if detects else ("heatmaps",)
    difference = export_onnx(served, path, size_wh=size_wh, output_names=names)
    facts = NetworkFacts(
        name=job.name,
        description=job.description,
        size_wh=size_wh,
        mean=recipe.mean,
        std=recipe.std,
        parameters=count_parameters(network),
        gflops=count_operations(network, size_wh).gflops("A"),
        training=job.training,
        sha256=sha256_of(path),
    )
    card = (
        detect_card(facts, calibrated="calibration" in state)
        if detects
        else pose_card(facts, sigma=sigma_for(last.width // 4))
    )
    card["verification"] = [{"form": "onnx-fp32", "max_abs_diff": float(f"{difference:.2e}")}]
    write_card(folder, card)
    save_checkpoint(folder / START_FILE, _start(state))
    return difference


def _start(state: dict[str, Any]) -> dict[str, Any]:
    """What a later run starts from: the moving average in half precision, and its recipe."""
    ema = {n: v.half() if v.is_floating_point() else v for n, v in state["ema"].items()}
    return {"ema": ema, "recipe": state["recipe"]}
