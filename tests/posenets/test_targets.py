"""joints -> target heatmaps and weights: posenets.training.targets, and what recipes make of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from posegate.codecs.heatmap import HeatmapCodec
from posegate.types import Keypoints
from posenets.cli import app
from posenets.training.augment import Augmentation, make_batch
from posenets.training.cache import CROP_WH, open_cache
from posenets.training.loop import Done, Trainer
from posenets.training.pose_task import PoseTask, sigma_for
from posenets.training.recipe import PoseRecipe, find_recipe, read_recipe
from posenets.training.targets import exact_targets, rounded_targets

OURS = ("posefpn-small", "litedeconv", "short")
PAPERS = (
    "gadnet", "goatpose", "goatpose-384x288", "hrnet", "le-hrnet", "litedeconv-mpii",
    "litedeconv-paper", "nam-hrnet",
)  # fmt: skip
STILL = Augmentation(
    flip=0, rotation=0, rotation_std=0, scale_std=0, shift=0, half_body=0, colour=0, erase=0
)
MAP_WH = (48, 64)


def _places() -> np.ndarray:
    """(1, N, 2) heatmap pixels: in the map, on halves, about both borders, far outside."""
    x = [*np.linspace(-8.2, 8.3, 34), 12.5, 13.49, 13.5, *np.linspace(39.2, 55.4, 33), 90]
    y = [30.26] * 20 + [-6.4, -6.5, -6.6, -5.5, 69.4, 69.5, 69.6, 64] + [12.5] * (len(x) - 28)
    return np.stack([x, y], 1)[None].astype(np.float32)


@pytest.mark.parametrize("sigma", [2.0, 3.0])
def test_rounded_targets_and_weights_are_those_of_the_codec(sigma: float) -> None:
    places = _places()
    codec = HeatmapCodec(size_wh=MAP_WH, sigma=sigma, scale=(4.0, 4.0), rounded=True)
    known = np.ones(places.shape[:2], np.float32)
    (expected,), weights = codec.encode(Keypoints(xy=4 * places, scores=known), known)
    maps, counted = rounded_targets(torch.from_numpy(places), MAP_WH, sigma)
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(counted.numpy(), weights)
    outside = ((places < -0.5) | (places > np.array(MAP_WH) - 0.5)).any(-1)
    assert 5 < counted.numpy()[outside].sum() < outside.sum()


def test_exact_targets_peak_between_pixels_and_leave_out_joints_outside() -> None:
    places = _places()
    maps, counted = exact_targets(torch.from_numpy(places), MAP_WH, 2.0)
    inside = ((places > -0.5) & (places < np.array(MAP_WH) - 0.5)).all(-1)
    np.testing.assert_array_equal(counted.numpy(), inside)
    between = places[0, :, 0].tolist().index(12.5)
    row = maps[0, between].amax(0)
    assert row[12] == row[13] < 1


def test_exact_targets_are_gaussians_that_end_at_three_sigmas() -> None:
    (maps, _) = exact_targets(torch.tensor([[[20.3, 30.6]]]), MAP_WH, 2.0)
    y, x = np.mgrid[: MAP_WH[1], : MAP_WH[0]]
    squared = (x - 20.3) ** 2 + (y - 30.6) ** 2
    expected = np.where(squared <= 36, np.exp(-squared / 8), 0)
    np.testing.assert_allclose(maps[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "draw"),
    [(name, rounded_targets) for name in PAPERS] + [(name, exact_targets) for name in OURS],
)
def test_a_recipe_trains_on_its_own_targets(
    name: str, draw: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    recipe = read_recipe(find_recipe(name))
    assert isinstance(recipe, PoseRecipe)
    assert (recipe.ema == 0) is recipe.rounded is (draw is rounded_targets)
    phase = recipe.phases[-1]
    size_wh = (phase.width, phase.height)
    sigma = recipe.sigma or sigma_for(phase.width // phase.stride)
    assert sigma == (3.0 if name == "goatpose-384x288" else 2.0)
    joints = torch.zeros(1, 17, 3)
    joints[0, :, 0] = torch.linspace(8, CROP_WH[0] - 9, 17)  # the outer ones beyond the input
    joints[0, :, 1] = torch.linspace(60.3, 250.7, 17)
    joints[..., 2] = 2
    batch = make_batch(
        torch.zeros(1, CROP_WH[1], CROP_WH[0], 3, dtype=torch.uint8),
        joints,
        torch.ones(1, 17),
        None,
        size_wh=size_wh,
        sigma=sigma,
        augmentation=STILL,
        generator=torch.Generator().manual_seed(0),
        rounded=recipe.rounded,
    )
    middle = (torch.tensor(CROP_WH) - 1) / 2
    scale = max(192 / size_wh[0], 256 / size_wh[1])  # the whole height is shown
    points = (joints[..., :2] - middle) / scale + (torch.tensor(size_wh) - 1) / 2
    maps, counted = draw(points / 4, (size_wh[0] // 4, size_wh[1] // 4), sigma)
    torch.testing.assert_close(batch.targets, maps, atol=1e-3, rtol=0)
    torch.testing.assert_close(batch.weights, counted)


class _Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.BatchNorm2d(16), nn.Conv2d(16, 17, 3, padding=1)
        )


def _trained(cached: Path, name: str, *, amp: bool = False) -> Trainer:  # type: ignore[type-arg]
    """Three steps of a shipped recipe on a small input."""
    recipe = read_recipe(find_recipe(name))
    phase = recipe.phases[-1].model_copy(update={"width": 64, "height": 64, "batch": 4})
    recipe = recipe.model_copy(update={"phases": (phase,), "epochs": 0, "examples": 12})
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    task = PoseTask([open_cache(cached)], recipe, cpu)  # type: ignore[arg-type]
    trainer = Trainer(_Tiny(), recipe, task, device=cpu, checkpoint=cached / "run.pt", amp=amp)
    trainer.run()
    return trainer


@pytest.mark.parametrize(("name", "alike"), [("hrnet", True), ("short", False)])
def test_an_average_of_nothing_is_the_network_itself(cached: Path, name: str, alike: bool) -> None:
    trainer = _trained(cached, name)
    ours = trainer.ema.state_dict()
    same = [
        torch.equal(value, ours[key])
        for key, value in trainer.network.state_dict().items()
        if value.is_floating_point()
    ]
    assert all(same) is alike


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(cached: Path) -> None:
    seen: set[torch.dtype] = set()
    forward = _Tiny.forward

    def watched(self: _Tiny, x: Tensor) -> Tensor:
        y = forward(self, x)
        seen.add(y.dtype)
        return y

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Tiny, "forward", watched)
        half = _trained(cached, "hrnet", amp=True)
        assert seen == {torch.bfloat16}
        seen.clear()
        whole = _trained(cached, "hrnet")
        assert seen == {torch.float32}
    for name, value in half.network.named_parameters():
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all(), name
    batch, _ = whole.task.draw(0)
    losses = [float(run.task.loss(run.network, batch).detach()) for run in (half, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("option", ["--bfloat16", "--float32"])
@pytest.mark.parametrize(
    ("task", "source"), [("short", "--cache"), ("person-detector", "--photos")]
)
def test_the_command_takes_the_precision(
    cached: Path, coco_folder: Path, monkeypatch: pytest.MonkeyPatch, option: str, task: str,
    source: str,
) -> None:  # fmt: skip
    seen: set[bool] = set()

    def watched(self: Trainer[Any], **_: object) -> Done:
        seen.add(self.amp)
        return self.progress

    monkeypatch.setattr(Trainer, "run", watched)
    data = {"--cache": cached, "--photos": coco_folder}[source]
    arguments = ["train", task, source, str(data), "--out", str(cached / "run.pt"), option]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert seen == {option == "--bfloat16"}
