"""Evaluation of a network that is still learning."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from posegate.card import ModelCard, Training
from posegate.skeleton import COCO_KEYPOINTS
from posenets.evaluation.coco import coco_figures
from posenets.evaluation.predict import find_keypoints, torch_run
from posenets.evaluation.scenes import coco_scenes
from posenets.export.card import NetworkFacts, pose_card
from posenets.training.augment import HEATMAP_STRIDE
from posenets.training.people import labelled_as
from posenets.training.pose_task import sigma_for
from posenets.training.recipe import PoseRecipe
from posenets.training.records import BadData

SHOWN = ("ap", "ap50", "ap75", "ar")


def card_of(recipe: PoseRecipe, joints: tuple[str, ...]) -> ModelCard:
    """The card that the recipe's network will get, as far as evaluation reads it."""
    last = recipe.phases[-1]
    facts = NetworkFacts(
        name=recipe.network,
        description="",
        size_wh=(last.width, last.height),
        mean=recipe.mean,
        std=recipe.std,
        parameters=1,
        gflops=1,
        training=Training(),
        sha256="0" * 64,
    )
    sigma = recipe.sigma or sigma_for(last.width // HEATMAP_STRIDE)
    return ModelCard.model_validate(pose_card(facts, sigma=sigma, joint_names=joints))


def evaluation_on(
    folder: Path, recipe: PoseRecipe, joints: tuple[str, ...]
) -> Callable[[nn.Module], dict[str, float]]:
    """A measure of AP on a COCO-form folder, true boxes, no flip, DARK, the last phase's input.

    Raises BadData where the folder is not whole, or its labels are not of the network's `joints`.
    """
    if labelled_as(folder, joints) != joints:
        raise BadData(
            f"--evaluate: AP is of COCO's {len(COCO_KEYPOINTS)} keypoints, {recipe.network} has "
            f"{len(joints)} joints; measure its PCKh by posenets evaluate --mpii"
        )
    scenes, data = coco_scenes(folder, joints)
    card = card_of(recipe, joints)

    def evaluate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        found = find_keypoints(card, torch_run(network, device), scenes)
        figures = coco_figures(data, scenes, found)
        return {name: figures[name] for name in SHOWN}

    return evaluate
