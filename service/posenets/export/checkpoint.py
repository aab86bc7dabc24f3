"""A training checkpoint -> a folder of the model repository: ONNX file and card."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from posegate.card import Training
from posegate.catalog import CARD_NAME, ONNX_NAME, Model, load_card, sha256_of
from posegate.skeleton import COCO_KEYPOINTS
from posenets.counting import count_operations, count_parameters
from posenets.export.card import NetworkFacts, detect_card, pose_card
from posenets.export.halves import LARGEST
from posenets.export.in_graph import write_decoded
from posenets.export.in_place import proving, put_in_place
from posenets.export.onnx import export_onnx
from posenets.export.published import published_state, published_training
from posenets.networks.folding import fold_for_export, with_half_kernels
from posenets.networks.person_detector import DetectorExport, PersonDetector
from posenets.training.augment import HEATMAP_STRIDE
from posenets.training.checkpoint import (
    BadCheckpoint,
    fit_weights,
    load_checkpoint,
    recipe_in,
    save_checkpoint,
    weights_in,
)
from posenets.training.pose_task import sigma_for
from posenets.training.recipe import BadRecipe, DetectionRecipe, PoseRecipe, Recipe
from posenets.training.start import make_network
from posenets.training.start_weights import joints_in

START_FILE = "training.pt"
"""Beside the card: weights for `posenets train --start` to go on from."""


@dataclass(frozen=True, slots=True)
class CheckpointExport:
    """What to export, where to, and what the card says of its making.

    `published` names the network of the table that another's checkpoint holds; None for ours.
    `halves` stores kernels as float16: half the file, the same network but for their rounding.
    """

    checkpoint: Path
    repository: Path
    name: str
    description: str = ""
    training: Training = field(default_factory=Training)
    published: str | None = None
    halves: bool = False


def joints_of_export(job: CheckpointExport) -> tuple[str, ...] | None:
    """The joints of the network that will be exported, None of a detector.

    Raises BadCheckpoint or BadRecipe.
    """
    if job.published is not None:
        return COCO_KEYPOINTS
    state = load_checkpoint(job.checkpoint)
    detects = isinstance(recipe_in(state, job.checkpoint), DetectionRecipe)
    return None if detects else joints_in(state, job.checkpoint)


def export_checkpoint(job: CheckpointExport) -> float:
    """Write `<repository>/<name>/1/model.onnx`, `posegate.json` and the weights to go on from.

    Beside a pose network goes `<name>-decoded`, which finds the peaks in its graph. The moving
    average of the weights is exported at the size of the recipe's last phase. Returns the largest
    difference between network and file as a fraction of the outputs' range; where they differ, what
    was there stays.
    """
    training = job.training
    if job.published is None:
        state = _start(load_checkpoint(job.checkpoint), job.checkpoint)
    else:
        state = published_state(job.checkpoint, job.published)
        training = published_training(job.checkpoint, training)
    state["halves"] = job.halves or bool(state.get("halves"))
    recipe, network = _network_of(state, job.checkpoint)
    size_wh = _size_of(recipe)
    folder = job.repository / job.name
    detects = isinstance(recipe, DetectionRecipe)
    served = _served(network, state, job.checkpoint)
    outputs = ("boxes", "scores") if detects else ("heatmaps",)
    with proving(folder / ONNX_NAME) as part, proving(folder / START_FILE) as weights:
        difference = export_onnx(
            served, part, size_wh=size_wh, output_names=outputs, halves=state["halves"]
        )
        facts = NetworkFacts(
            name=job.name,
            description=job.description,
            size_wh=size_wh,
            mean=recipe.mean,
            std=recipe.std,
            parameters=count_parameters(network),
            gflops=count_operations(network, size_wh).gflops("A"),
            training=training,
            sha256=sha256_of(part),
        )
        card = _card(facts, recipe, state, job.checkpoint)
        card["verification"] = [{"form": "onnx-fp32", "max_abs_diff": float(f"{difference:.2e}")}]
        save_checkpoint(weights, state)
        put_in_place(part, folder, card, others={weights: folder / START_FILE})
    if not detects:
        write_decoded(Model(load_card(folder / CARD_NAME), folder))
    return difference


def _card(
    facts: NetworkFacts, recipe: PoseRecipe | DetectionRecipe, state: dict[str, Any], path: Path
) -> dict[str, Any]:
    if isinstance(recipe, DetectionRecipe):
        return detect_card(facts, calibrated="calibration" in state)
    return pose_card(
        facts,
        sigma=recipe.sigma or sigma_for(facts.size_wh[0] // HEATMAP_STRIDE),
        joint_names=joints_in(state, path),
        to_corners=bool(state.get("udp")),
    )


def served_network(state: dict[str, Any], path: Path) -> nn.Module:
    """The network of a checkpoint in the form that is exported; raises BadCheckpoint."""
    _, network = _network_of(state, path)
    return _served(network, state, path)


def _network_of(
    state: dict[str, Any], path: Path
) -> tuple[PoseRecipe | DetectionRecipe, nn.Module]:
    recipe = recipe_in(state, path)
    try:
        joints = len(joints_in(state, path)) if isinstance(recipe, PoseRecipe) else None
        network = make_network(recipe.network, _size_of(recipe), joints)
    except BadRecipe as error:
        raise BadCheckpoint(f"{path}: field 'recipe': {error}") from error
    if isinstance(network, PersonDetector) != isinstance(recipe, DetectionRecipe):
        raise BadCheckpoint(
            f"{path}: field 'recipe': network: {recipe.network} is not for the task {recipe.task!r}"
        )
    fit_weights(network, weights_in(state, path, "ema"), path)
    return recipe, network


def _served(network: nn.Module, state: dict[str, Any], path: Path) -> nn.Module:
    if isinstance(network, PersonDetector):
        try:
            detector = copy.deepcopy(network).eval()
            served: nn.Module = DetectorExport(detector, **state.get("calibration", {}))
        except TypeError as error:
            raise BadCheckpoint(f"{path}: field 'calibration': {error}") from error
    else:
        served = fold_for_export(network)
    if state.get("halves"):
        served = with_half_kernels(served)
        _check_halves(served.state_dict(), path)
    return served


def _size_of(recipe: Recipe) -> tuple[int, int]:
    return recipe.phases[-1].width, recipe.phases[-1].height


def _start(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """What is exported, and what a later run starts from: the moving average and its recipe.

    Kernels are rounded to half precision, so that the file is half the size and still the exported
    network; scales, shifts and statistics are not.
    """
    kept: dict[str, Any] = {
        key: state[key]
        for key in ("recipe", "joints", "calibration", "udp", "halves")
        if key in state
    }
    weights = {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value
        for name, value in weights_in(state, path, "ema").items()
    }
    _check_halves(weights, path)
    return {"ema": weights, **kept}


def _check_halves(weights: dict[str, Tensor], path: Path) -> None:
    for name, value in weights.items():
        if value.isinf().any():
            raise BadCheckpoint(
                f"{path}: {name} holds a number that half precision cannot (beyond {LARGEST:.0f})"
            )
