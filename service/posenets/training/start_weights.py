"""A checkpoint, or a backbone's weights, -> the weights that a network begins with."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from posenets.networks import JOINT_WEIGHTS, find_network
from posenets.networks.mobilenetv3_small import MobileNetV3Small, load_folded_weights
from posenets.networks.published_hrnet import is_published
from posenets.training.checkpoint import (
    BadCheckpoint,
    fit_weights,
    load_weights,
    recipe_in,
    refuse_other_normalisation,
    weights_in,
)
from posenets.training.people import KNOWN_JOINTS
from posenets.training.recipe import BadRecipe, Recipe

_BY_NUMBER = {len(names): names for names in KNOWN_JOINTS.values()}


def start_from(
    network: nn.Module,
    start: Path | None,
    pictures: Callable[[], Tensor],
    recipe: Recipe,
    *,
    joints: tuple[str, ...] | None = None,
) -> None:
    """Load a checkpoint, or the backbone's weights calibrated on `pictures` (0..255 RGB).

    What draws `joints` stays the network's where the checkpoint draws others.
    """
    if start is None:
        return
    if start.suffix != ".npz":
        drawn = {
            name: value.clone()
            for name, value in network.state_dict().items()
            if name in JOINT_WEIGHTS
        }
        state = load_weights(network, start, renewed=JOINT_WEIGHTS)
        if joints is not None and _joints_lent(state, start, len(joints)) not in (None, joints):
            network.load_state_dict(drawn, strict=False)
        if "recipe" in state:
            refuse_other_normalisation(state, recipe, start)
        return
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, MobileNetV3Small):
        raise BadCheckpoint(f"{start}: {recipe.network} has no backbone that an .npz starts")
    mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
    sample = (pictures().cpu() - mean[:, None, None]) / std[:, None, None]
    whole = MobileNetV3Small()
    try:
        load_folded_weights(whole, start, sample, mean=mean, std=std)
    except OSError as error:
        raise BadCheckpoint(f"{start}: cannot be read ({error.strerror or error})") from error
    except KeyError as error:
        raise BadCheckpoint(f"{start}: array {error.args[0]!r} is missing") from error
    except (ValueError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        raise BadCheckpoint(f"{start}: not an .npz of a backbone's weights") from error
    wanted = backbone.state_dict().keys()
    fit_weights(backbone, {k: v for k, v in whole.state_dict().items() if k in wanted}, start)


def joints_of(name: str) -> tuple[str, ...]:
    """The joints that a network of the table is made for, by their number; raises BadRecipe."""
    try:
        joints = find_network(name).joints
    except ValueError as error:
        raise BadRecipe(f"network: {error}") from error
    return _BY_NUMBER[joints]


def joints_in(state: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The joints that a checkpoint of `train` draws; raises BadCheckpoint or BadRecipe."""
    names = state.get("joints")
    if names is None:
        return joints_of(recipe_in(state, path).network)
    named = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not named or not names or len(set(names)) != len(names):
        raise BadCheckpoint(f"{path}: field 'joints': no list of names")
    return tuple(names)


def _joints_lent(state: dict[str, Any], path: Path, number: int) -> tuple[str, ...] | None:
    """The joints, so many, of a checkpoint to start from; None where nothing tells them."""
    if "joints" in state or "recipe" in state:
        return joints_in(state, path)
    return _BY_NUMBER.get(number) if is_published(weights_in(state, path)) else None
