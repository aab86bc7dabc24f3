"""Checkpoints: what is damaged or foreign is refused by name, whatever lies in it."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from posenets.networks.posefpn import PoseFPN
from posenets.training.checkpoint import (
    BadCheckpoint,
    load_checkpoint,
    load_weights,
    recipe_in,
    save_checkpoint,
)


def flip_in_the_middle(path: Path, count: int = 2000) -> str:
    """Change bytes of the largest member's middle; its name."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data = bytearray(path.read_bytes())
    first = largest.header_offset + 64 + (largest.file_size - count) // 2
    for place in range(first, first + count):
        data[place] ^= 0xFF
    path.write_bytes(data)
    return largest.filename


def test_bytes_changed_in_the_middle_name_the_damaged_part(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"ema": {"weight": torch.zeros(4000)}})
    assert load_checkpoint(path)["ema"]["weight"].sum() == 0
    part = flip_in_the_middle(path)
    with pytest.raises(BadCheckpoint, match=f"damaged in {part}") as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: path.write_bytes(b"not a checkpoint"), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "damaged or not a checkpoint"),
        (lambda path: path.write_bytes(b""), "damaged or not a checkpoint"),
        (lambda path: path.unlink(), r"cannot be read \(No such file"),
        (lambda path: torch.save([1, 2], path), "holds a list, not a dictionary"),
        (lambda path: torch.save({"x": Path("y")}, path), r"holds a pathlib\S*, which cannot be"),
        (lambda path: torch.save({"ema": [1, 2]}, path), "field 'ema' holds no weights by name"),
        (lambda path: torch.save({"ema": None}, path), "field 'ema' holds no weights by name"),
        (lambda path: torch.save({"ema": {}}, path), "field 'ema' holds no weights by name"),
        (lambda path: torch.save({"state_dict": {"a": 1}}, path), "field 'state_dict' holds no"),
        (lambda path: torch.save({1: torch.zeros(1)}, path), "holds no weights by name"),
        (lambda path: torch.save({"w": torch.zeros(1)}, path), r"does not fit PoseFPN: \S+ is mi"),
    ],
)
def test_a_bad_file_is_one_sentence_of_our_own(
    tmp_path: Path, spoil: Callable[[Path], object], named: str
) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"ema": {"weight": torch.zeros(4000)}})
    spoil(path)
    with pytest.raises(BadCheckpoint, match=named) as caught:
        load_weights(PoseFPN(), path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert "weights_only" not in said


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, broken: float) -> None:
    path = tmp_path / "run.pt"
    weights = PoseFPN().state_dict()
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = broken
    save_checkpoint(path, {"ema": weights})
    with pytest.raises(BadCheckpoint, match=f"{name} holds NaN or infinity"):
        load_weights(PoseFPN(), path)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({}, "field 'recipe' is missing"),
        ({"recipe": 5}, "field 'recipe': "),
        ({"recipe": "{"}, "field 'recipe': Invalid JSON"),
        ({"recipe": '{"task": "cook"}'}, "field 'recipe': .*'cook'"),
        ({"recipe": '{"task": "detect", "network": "x"}'}, "field 'recipe': phases: Field req"),
    ],
)
def test_a_bad_recipe_in_a_checkpoint_names_its_field(state: dict[str, object], named: str) -> None:
    with pytest.raises(BadCheckpoint, match=f"^run.pt: {named}") as caught:
        recipe_in(state, Path("run.pt"))
    assert "\n" not in str(caught.value)
