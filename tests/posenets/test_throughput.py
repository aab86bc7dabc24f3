"""Data never holds up the network: where a run's time goes, as the run itself measures it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posenets.training import loop
from posenets.training.cache import build_cache
from posenets.training.loop import Trainer
from posenets.training.recipe import Phase, PoseRecipe, find_recipe, read_recipe
from posenets.training.start import pose_trainer

CPU = torch.device("cpu")
STEPS = 8


class _Curves(list[Mapping[str, float]]):
    """What a run logs, kept."""

    def add(self, figures: Mapping[str, float], seen: int) -> None:
        self.append(figures)


class _SlowData:
    """Takes 60 ms for a batch that a network is done with at once."""

    def draw(self, seen: int) -> tuple[Tensor, int]:
        time.sleep(0.06)
        return torch.ones(1, 2), 1

    def loss(self, network: nn.Module, batch: Tensor) -> Tensor:
        return network(batch).mean()

    def random_state(self) -> Any:
        return None

    def set_random_state(self, state: Any) -> None:
        pass

    def reseed(self, seed: int) -> None:
        pass


@pytest.fixture(autouse=True)
def _reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_REPORT_STEPS", STEPS)


def _recipe(batch: int) -> PoseRecipe:
    """The small network's own at its first, cheapest size, where data is the largest part."""
    recipe = read_recipe(find_recipe("posefpn-small"))
    assert isinstance(recipe, PoseRecipe)
    phase = Phase(width=96, height=128, share=1.0, batch=batch)
    return recipe.model_copy(update={"examples": STEPS * batch, "phases": (phase,)})


def test_network_is_at_work_nearly_all_the_time(coco_folder: Path, tmp_path: Path) -> None:
    build_cache(coco_folder, tmp_path / "cache")
    trainer = pose_trainer(
        _recipe(16), [tmp_path / "cache"], start=None, device=CPU, checkpoint=tmp_path / "run.pt"
    )
    curves = _Curves()
    trainer.run(log=curves)
    (figures,) = curves
    assert figures["waited_share"] <= 0.15
    assert figures["network_share"] >= 0.85


def test_slow_data_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(
        nn.Linear(2, 1), _recipe(1), _SlowData(), device=CPU, checkpoint=tmp_path / "run.pt"
    )
    curves = _Curves()
    trainer.run(log=curves)
    (figures,) = curves
    assert figures["waited_share"] > 0.5
    assert figures["network_share"] < 0.5
    said = " ".join(capsys.readouterr().out.split())
    network, waited = (100 * figures[f"{name}_share"] for name in ("network", "waited"))
    assert f"network {network:.1f} % waited for data {waited:.1f} %" in said
