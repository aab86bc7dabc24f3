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


@pytest.fixture
def made() -> MobileNetV3Small:
    """A backbone of large weights, as published ones have, and gates that stay open."""
    torch.manual_seed(0)
    network = MobileNetV3Small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 2.0, 9.0)
            nn.init.normal_(module.bias, std=3.0)
        if isinstance(module, SqueezeExcite):
            nn.init.zeros_(module.u.weight)
            assert module.u.bias is not None
            nn.init.constant_(module.u.bias, 4.0)
        if isinstance(module, InvertedResidual) and module.residual:
            nn.init.uniform_(module.p.n.weight, 0.5, 1.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
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
            arrays += [(module.d.weight, module.d.bias), (module.u.weight, module.u.bias)]
    named = {}
    for index, (weight, bias) in enumerate(arrays):
        named[f"conv{index:02d}.weight"] = weight.detach().numpy()
        named[f"conv{index:02d}.bias"] = bias.detach().numpy()
    np.savez(path, **named)
    return path


def outputs(network: MobileNetV3Small, x: Tensor) -> list[Tensor]:
    every = []
    with torch.no_grad():
        for layer in list(network)[:5]:
            x = layer(x)
            every.append(x)
    return every


def test_first_blocks_give_what_the_folded_ones_gave_at_a_scale_of_one(
    made: MobileNetV3Small, tmp_path: Path
) -> None:
    photos = torch.randn(6, 3, 64, 64)
    network = MobileNetV3Small()
    load_folded_weights(network, folded(made, tmp_path / "made.npz"), photos)
    network.train()
    for block, (ours, theirs) in enumerate(
        zip(outputs(network, photos), outputs(made, photos), strict=True)
    ):
        scale = (ours * theirs).mean() / theirs.square().mean()
        torch.testing.assert_close(ours, theirs * scale, atol=0.02, rtol=0.02)
        if block in (1, 3, 4):
            assert ours.std().item() == pytest.approx(1.0, abs=0.05)


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
    network = MobileNetV3Small()
    load_folded_weights(network, folded(made, tmp_path / "made.npz"), torch.randn(4, 3, 64, 64))
    for layer in list(network)[:5]:
        for module in layer.modules():
            if isinstance(module, ConvNorm):
                lengths = module.c.weight.flatten(1).norm(dim=1)
                assert lengths.mean().item() == pytest.approx(1.0, abs=1e-4)
    network.train()
    network.features(torch.randn(4, 3, 64, 64))[3].sum().backward()
    for module in network.modules():
        if isinstance(module, SqueezeExcite):
            assert module.u.weight.grad is not None
            assert module.u.weight.grad.abs().sum() > 0
