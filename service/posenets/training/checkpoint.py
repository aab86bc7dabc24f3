"""Checkpoints that survive a kill at any moment: written beside, flushed, then renamed."""

import os
from pathlib import Path
from typing import Any

import torch

from posenets.networks.published_hrnet import is_published, our_names


class BadCheckpoint(ValueError):
    """The file is damaged or belongs to another network; the message names file and field."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically; the previous checkpoint stays whole until the new one is."""
    part = path.with_suffix(path.suffix + ".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`; raises BadCheckpoint."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadCheckpoint(f"{path}: damaged or not a checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise BadCheckpoint(f"{path}: holds a {type(state).__name__}, not a dictionary")
    return state


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Load a checkpoint's weights into `network`; raises BadCheckpoint.

    Ours keep them in `ema`, others' in `state_dict` or bare; an HRNet may have published names.
    """
    state = load_checkpoint(path)
    weights = next((state[key] for key in ("ema", "state_dict") if key in state), state)
    if is_published(weights):
        try:
            weights = our_names(weights)
        except KeyError as error:
            raise BadCheckpoint(f"{path}: our HRNet has no weight {error.args[0]!r}") from error
    fit_weights(network, weights, path)


def fit_weights(network: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Put the weights of `path` into `network`; raises BadCheckpoint where they do not fit."""
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise BadCheckpoint(f"{path}: does not fit {type(network).__name__}: {error}") from error
