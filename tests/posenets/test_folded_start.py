"""Starting a backbone from folded weights: posenets.networks.mobilenetv3_small."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posenets.networks.mobilenetv3_small import (
    ConvNorm,
    InvertedResidual,
    MobileNetV3Small,
    SqueezeExcite,
    load_folded_weights,
)
from posenets.training.cache import build_cache
from posenets.training.checkpoint import BadCheckpoint
from posenets.training.recipe import Phase, PoseRecipe
from posenets.training.start import pose_trainer

PLAIN = torch.full((3,), 127.5)
"""Mean and deviation of the pictures that the weights were made for."""


@pytest.fixture
def made() -> MobileNetV3Small:
    """A backbone of large weights, as published ones have; gates that all stand open in block 1."""
    torch.manual_seed(0)
    network = MobileNetV3Small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 2.0, 9.0)
            nn.init.normal_(module.bias, std=3.0)
            module.momentum = None
        if isinstance(module, SqueezeExcite):
            nn.init.normal_(module.u.weight, std=0.1)
        if isinstance(module, InvertedResidual) and module.residual:
            nn.init.uniform_(module.p.n.weight, 0.5, 1.0)
    nn.init.constant_(network[1].se.u.bias, 30.0)
    network.features(torch.randn(8, 3, 64, 64))
    return network.eval()


def folded(network: MobileNetV3Small, path: Path) -> Path:
    arrays: list[tuple[Tensor, Tensor]] = []
    for module in network.modules():
        if isinstance(module, ConvNorm):
            conv, norm = module.c, module.n
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight = conv.weight * factor[:, None, None, None]
            arrays.append((weight, norm.bias - norm.running_mean * factor))
        elif isinstance(module, SqueezeExcite):
            arrays += [(module.d.weight, module.d.bias), (module.u.weight, module.u.bias + 3)]
    named = {}
    for index, (weight, bias) in enumerate(arrays):
        named[f"conv{index:02d}.weight"] = weight.detach().numpy()
        named[f"conv{index:02d}.bias"] = bias.detach().numpy()
    np.savez(path, **named)
    return path


def started(made: MobileNetV3Small, folder: Path, photos: Tensor) -> MobileNetV3Small:
    network = MobileNetV3Small()
    start = folded(made, folder / "made.npz")
    load_folded_weights(network, start, photos, mean=PLAIN, std=PLAIN)
    return network


@torch.no_grad()
def outputs(network: MobileNetV3Small, x: Tensor) -> list[Tensor]:
    every = []
    for layer in network:
        x = layer(x)
        every.append(x)
    return every


@pytest.mark.parametrize("training", [False, True])
def test_every_layer_gives_what_the_folded_one_gave_at_a_scale_of_its_own(
    made: MobileNetV3Small, tmp_path: Path, training: bool
) -> None:
    photos = torch.randn(6, 3, 64, 64)
    network = started(made, tmp_path, photos).train(training)
    every = list(zip(network, outputs(network, photos), outputs(made, photos), strict=True))
    for layer, ours, theirs in every:
        scale = (ours * theirs).mean() / theirs.square().mean()
        torch.testing.assert_close(ours, theirs * scale, atol=0.02, rtol=0.02)
        if isinstance(layer, InvertedResidual) and not layer.residual:
            assert ours.std().item() == pytest.approx(1.0, abs=0.01)
    assert scale.item() == pytest.approx(1.0, abs=1e-3)


def test_pictures_may_be_normalised_in_another_way(made: MobileNetV3Small, tmp_path: Path) -> None:
    photos = 255 * torch.rand(6, 3, 64, 64)
    plain = started(made, tmp_path, (photos - 127.5) / 127.5)
    mean, std = torch.tensor([123.7, 116.3, 103.5]), torch.tensor([58.4, 57.1, 57.4])
    sample = (photos - mean[:, None, None]) / std[:, None, None]
    network = MobileNetV3Small()
    load_folded_weights(network, tmp_path / "made.npz", sample, mean=mean, std=std)
    inside = (..., slice(1, None), slice(1, None))  # the border is padded with another grey
    with torch.no_grad():
        ours, theirs = network.eval()[0](sample), plain.eval()[0]((photos - 127.5) / 127.5)
    torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-3, rtol=1e-3)


def test_start_that_is_not_finite_is_refused(
    made: MobileNetV3Small, coco_folder: Path, tmp_path: Path
) -> None:
    build_cache(coco_folder, tmp_path / "cache")
    phases = (Phase(width=64, height=64, share=1.0, batch=4),)
    recipe = PoseRecipe(task="pose", network="posefpn-small", examples=4, phases=phases)
    nn.init.constant_(made[0].n.bias, math.nan)
    start, out, cpu = folded(made, tmp_path / "a.npz"), tmp_path / "run.pt", torch.device("cpu")
    with pytest.raises(BadCheckpoint, match=r"a\.npz: \S+ holds NaN or infinity"):
        pose_trainer(recipe, [tmp_path / "cache"], start=start, device=cpu, checkpoint=out)


def test_filters_have_length_one_and_gates_can_learn(
    made: MobileNetV3Small, tmp_path: Path
) -> None:
    network = started(made, tmp_path, torch.randn(4, 3, 64, 64)).train()
    for module in network.modules():
        if isinstance(module, ConvNorm):
            lengths = module.c.weight.flatten(1).norm(dim=1)
            assert lengths.mean().item() == pytest.approx(1.0, abs=1e-4)
    network.features(torch.randn(4, 3, 64, 64))[3].sum().backward()
    for module in network.modules():
        if isinstance(module, SqueezeExcite):
            assert module.u.weight.grad is not None
            assert module.u.weight.grad.abs().sum() > 0
