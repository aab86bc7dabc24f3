"""Checkpoints that survive a kill at any moment: written beside, flushed, then renamed."""

import errno
import os
import re
import zipfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy._core import multiarray
from pydantic import ValidationError
from torch import Tensor

from posenets.networks.published_hrnet import is_published, our_names
from posenets.training.recipe import RECIPE, DetectionRecipe, PoseRecipe, Recipe, first_fault

_NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefdSUO"),
    *(
        (getattr(multiarray, name), f"{module}.multiarray.{name}")
        for module in ("numpy._core", "numpy.core")  # as NumPy 2 and 1 write them
        for name in ("_reconstruct", "scalar")
    ),
]
"""What arrays are pickled by: others' checkpoints keep some beside the weights."""
_REFUSED = re.compile(r"GLOBAL (\S+) was not an allowed global")


class BadCheckpoint(ValueError):
    """The file is damaged or belongs to another network; the message names file and field."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` atomically; the previous checkpoint stays whole until the new one is."""
    part = path.with_suffix(path.suffix + ".part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        # what torch says of a full disk does not name it
        raise OSError(errno.ENOSPC, "cannot be written (no room for it?)", str(path)) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, ours or another's, every byte checked where the file holds checksums.

    Only tensors, arrays and plain values are read, no code is run. Raises BadCheckpoint.
    """
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(_NUMPY):
            damaged = _damaged_member(file)
            state = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever bytes make of pickle's machine
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise BadCheckpoint(f"{path}: damaged or not a checkpoint") from error
        raise BadCheckpoint(
            f"{path}: holds a {refused[1]}, which cannot be loaded safely; save its weights alone, "
            "as {'state_dict': ...}, and give that file"
        ) from error
    if damaged:
        raise BadCheckpoint(f"{path}: damaged in {damaged}")
    if not isinstance(state, dict):
        raise BadCheckpoint(f"{path}: holds a {type(state).__name__}, not a dictionary")
    return state


def _damaged_member(file: BinaryIO) -> str | None:
    """The first member of a zip archive that is not what its checksum says."""
    found = None
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            found = archive.testzip()
    file.seek(0)
    return found


def recipe_in(state: dict[str, Any], path: Path) -> PoseRecipe | DetectionRecipe:
    """The recipe that a checkpoint was trained by; raises BadCheckpoint."""
    try:
        return RECIPE.validate_json(_field(state, "recipe", path))
    except ValidationError as error:
        raise BadCheckpoint(f"{path}: field 'recipe': {first_fault(error)}") from error


def check_moments(optimiser: torch.optim.Optimizer, path: Path, *, begun: bool) -> None:
    """What torch does not look at: moments of another shape, or none although the run has `begun`.

    Raises BadCheckpoint.
    """
    if begun and not optimiser.state:
        raise BadCheckpoint(f"{path}: field optimiser: no moments of its weights")
    if any("share" not in group for group in optimiser.param_groups):
        raise BadCheckpoint(f"{path}: field 'share' is missing; not made by train")
    for weight, moments in optimiser.state.items():
        for name, moment in moments.items():
            if name != "step" and moment.shape != weight.shape:
                raise BadCheckpoint(
                    f"{path}: field optimiser: {name} is {tuple(moment.shape)} where its weight is "
                    f"{tuple(weight.shape)}"
                )


def refuse_other_run(
    state: dict[str, Any], recipe: Recipe, path: Path, *, joints: Sequence[str] | None = None
) -> None:
    """Raises BadCheckpoint where a run of another network or optimiser was kept there.

    Or one of other `joints`, where the checkpoint tells them.
    """
    made = recipe_in(state, path)
    elsewhere = "give another --out (and --start, to begin from its weights)"
    for field in ("network", "optimiser"):
        theirs, ours = getattr(made, field), getattr(recipe, field)
        if theirs != ours:
            raise BadCheckpoint(
                f"{path}: holds a run with {field} {theirs!r}, the recipe has {ours!r}; {elsewhere}"
            )
    if joints is not None and state.get("joints", [*joints]) != [*joints]:
        raise BadCheckpoint(f"{path}: holds a run of other joints than these; {elsewhere}")


def refuse_other_normalisation(state: dict[str, Any], recipe: Recipe, path: Path) -> None:
    """Raises BadCheckpoint where the weights were trained with another mean or std."""
    made = recipe_in(state, path)
    if (made.mean, made.std) != (recipe.mean, recipe.std):
        raise BadCheckpoint(
            f"{path}: was trained with mean = {[*made.mean]} and std = {[*made.std]}; write them "
            f"into the recipe, which has mean = {[*recipe.mean]} and std = {[*recipe.std]}"
        )


def load_weights(
    network: torch.nn.Module, path: Path, *, renewed: Collection[str] = ()
) -> dict[str, Any]:
    """Load a checkpoint's weights into `network`; what else it holds. Raises BadCheckpoint.

    Ours keep them in `ema`, others' in `state_dict` or bare; an HRNet may have published names.
    Those of the names `renewed` stay the network's where the checkpoint's have another shape.
    """
    state = load_checkpoint(path)
    weights = weights_in(state, path)
    if is_published(weights):
        weights = renamed(weights, path)
    ours = network.state_dict()
    kept = {
        name: ours[name]
        for name in renewed
        if name in weights and weights[name].shape != ours[name].shape
    }
    fit_weights(network, weights | kept, path)
    return state


def weights_in(state: dict[str, Any], path: Path, field: str | None = None) -> dict[str, Tensor]:
    """The weights of a checkpoint by name, as it names them; raises BadCheckpoint.

    Those in `field`; without it in `ema`, `state_dict` or bare, as ours and others' keep them.
    """
    field = field or next((key for key in ("ema", "state_dict") if key in state), None)
    weights = state if field is None else _field(state, field, path)
    named = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )
    if named and weights:
        return weights
    where = f"field {field!r} holds" if field else "holds"
    raise BadCheckpoint(f"{path}: {where} no weights by name")


def renamed(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A published HRNet's weights under our names; raises BadCheckpoint."""
    try:
        return our_names(weights)
    except KeyError as error:
        raise BadCheckpoint(f"{path}: our HRNet has no weight {error.args[0]!r}") from error


def fit_weights(network: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights of `path` into `network`; raises BadCheckpoint.

    So it does where they do not fit, or hold a NaN or an infinity.
    """
    kind = type(network).__name__
    try:
        missing, foreign = network.load_state_dict(weights, strict=False)
        faults = [f"{name} is missing" for name in missing]
        faults += [f"{name} is not one of its weights" for name in foreign]
    except RuntimeError as error:  # the first line only says that there are some
        faults = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadCheckpoint(f"{path}: does not fit {kind}: {faults[0]}{more}")
    name = not_finite(network)
    if name is not None:
        raise BadCheckpoint(f"{path}: {name} holds NaN or infinity; take an earlier checkpoint")


def not_finite(network: torch.nn.Module) -> str | None:
    """Name of the first weight or statistic that holds a NaN or an infinity."""
    weights = network.state_dict().items()
    return next((name for name, value in weights if not value.isfinite().all()), None)


def _field(state: dict[str, Any], name: str, path: Path) -> Any:
    if name not in state:
        raise BadCheckpoint(f"{path}: field {name!r} is missing; not made by train")
    return state[name]
