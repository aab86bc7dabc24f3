"""MobileNetV3-Small (Howard et al., ICCV 2019) as a feature pyramid backbone.

Layout of torchvision's `mobilenet_v3_small`; taps at strides 4, 8, 16 and 32.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

BN_MOMENTUM = 0.03
TAP_CHANNELS = (16, 24, 48, 576)
"""Channels at strides 4, 8, 16, 32."""


@dataclass(frozen=True, slots=True)
class _Row:
    kernel: int
    expand: int
    out: int
    squeeze: int
    hard_swish: bool
    stride: int


_ROWS = (
    _Row(3, 16, 16, 8, False, 2),
    _Row(3, 72, 24, 0, False, 2),
    _Row(3, 88, 24, 0, False, 1),
    _Row(5, 96, 40, 24, True, 2),
    _Row(5, 240, 40, 64, True, 1),
    _Row(5, 240, 40, 64, True, 1),
    _Row(5, 120, 48, 32, True, 1),
    _Row(5, 144, 48, 40, True, 1),
    _Row(5, 288, 96, 72, True, 2),
    _Row(5, 576, 96, 144, True, 1),
    _Row(5, 576, 96, 144, True, 1),
)
_TAPS = (1, 3, 8, 12)


class ConvNorm(nn.Sequential):
    """Convolution without bias, BatchNorm, and the activation named (`relu`, `hswish` or none)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: str = "",
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["c"] = nn.Conv2d(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        layers["n"] = nn.BatchNorm2d(channels_out, eps=1e-3, momentum=BN_MOMENTUM)
        if act:
            layers["a"] = nn.Hardswish() if act == "hswish" else nn.ReLU()
        super().__init__(layers)


class SqueezeExcite(nn.Module):
    """x * hardsigmoid(W2 relu(W1 mean(x)))."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.d = nn.Conv2d(channels, hidden, 1)
        self.u = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.relu(self.d(x.mean((2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.u(weights))


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise, squeeze-excite, linear 1x1; identity where shapes allow."""

    def __init__(self, channels_in: int, row: _Row) -> None:
        super().__init__()
        act = "hswish" if row.hard_swish else "relu"
        self.residual = row.stride == 1 and channels_in == row.out
        self.e = (
            ConvNorm(channels_in, row.expand, act=act)
            if row.expand != channels_in
            else nn.Identity()
        )
        self.d = ConvNorm(row.expand, row.expand, row.kernel, row.stride, row.expand, act=act)
        self.se = SqueezeExcite(row.expand, row.squeeze) if row.squeeze else nn.Identity()
        self.p = ConvNorm(row.expand, row.out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.p(self.se(self.d(self.e(x))))
        return x + y if self.residual else y


class MobileNetV3Small(nn.Sequential):
    """(N, 3, H, W) -> features at strides 4 (16 ch), 8 (24), 16 (48), 32 (576)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [ConvNorm(3, 16, 3, 2, act="hswish")]
        channels = 16
        for row in _ROWS:
            layers.append(InvertedResidual(channels, row))
            channels = row.out
        layers.append(ConvNorm(channels, 576, act="hswish"))
        super().__init__(*layers)

    def features(self, x: Tensor) -> list[Tensor]:
        """The four taps, fine to coarse."""
        taps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in _TAPS:
                taps.append(x)
        return taps


@torch.no_grad()
def load_folded_weights(
    backbone: MobileNetV3Small, path: Path, sample: Tensor, *, mean: Tensor, std: Tensor
) -> None:
    """Start from ImageNet weights whose BatchNorm was folded into them.

    `path` is an .npz of `convNN.weight` / `convNN.bias` in graph order, as Keras Applications has
    them: for RGB / 127.5 - 1, and with the 3 of the gates' relu6(x + 3) / 6 in the bias. `sample`
    (N, 3, H, W) is a batch of photos normalised by `mean` and `std` (3,), in 0..255. Each BatchNorm
    is set from it so that it reproduces convolution + bias: its statistics are the batch's, its
    scale their deviation, its shift mean + bias. Filters are of length 1 and what blocks without
    identity give has deviation 1, for a step of Adam is as long for a weight of 10 as for one of
    0.1. Keras pads strided convolutions at one end only; the border's features differ a little.
    """
    folded = iter(_folded_weights(path, sum(isinstance(m, nn.Conv2d) for m in backbone.modules())))
    was_training = backbone.training
    backbone.eval()
    weight, bias = next(folded)
    offset = (weight * (mean / 127.5 - 1)[None, :, None, None]).sum((1, 2, 3))
    stem = cast(ConvNorm, backbone[0])
    x = _reproduce(stem, weight * (std / 127.5)[None, :, None, None], bias + offset, sample)
    scale = 1.0
    for block in cast(list[InvertedResidual], list(backbone)[1:-1]):
        y = x
        if isinstance(block.e, ConvNorm):
            weight, bias = next(folded)
            y = _reproduce(block.e, weight * scale, bias, y)
        y = _reproduce(block.d, *next(folded), y)
        opening = 1.0
        if isinstance(block.se, SqueezeExcite):
            opening = _set_gates(block.se, next(folded), next(folded), y)
            y = block.se(y)
        weight, bias = next(folded)
        weight = weight * opening
        if not block.residual:
            scale = nn.functional.conv2d(y, weight, bias).std().item()
        y = _reproduce(block.p, weight / scale, bias / scale, y)
        x = x + y if block.residual else y
    weight, bias = next(folded)
    _reproduce(cast(ConvNorm, backbone[-1]), weight * scale, bias, x)
    backbone.train(was_training)


def _folded_weights(path: Path, convolutions: int) -> list[tuple[Tensor, Tensor]]:
    with np.load(path) as stored:
        arrays = dict(stored)
    return [
        (torch.from_numpy(arrays[f"{name}.weight"]), torch.from_numpy(arrays[f"{name}.bias"]))
        for name in (f"conv{number:02d}" for number in range(convolutions))
    ]


def _reproduce(layer: ConvNorm, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Make filters of length 1 and a BatchNorm that do as `weight` and `bias`; their output."""
    conv, norm = cast(nn.Conv2d, layer.c), cast(nn.BatchNorm2d, layer.n)
    length = weight.flatten(1).norm(dim=1).mean()
    conv.weight.copy_(weight / length)
    variance, mean = torch.var_mean(conv(x), (0, 2, 3), unbiased=False)
    norm.running_mean, norm.running_var = mean, variance
    norm.weight.copy_((variance + norm.eps).sqrt() * length)
    norm.bias.copy_(mean * length + bias)
    return cast(Tensor, layer(x))


def _set_gates(
    gates: SqueezeExcite, down: tuple[Tensor, Tensor], up: tuple[Tensor, Tensor], x: Tensor
) -> float:
    """Load the gates' weights; returns the factor by which what they pass on must grow.

    That is 1, unless all gates stand wide open for the features `x`. There they would learn
    nothing, so they are drawn back to 5/6, and what they pass on must grow to make up for it.
    """
    for conv, (weight, bias) in ((gates.d, down), (gates.u, up)):
        assert conv.bias is not None
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
    assert gates.u.bias is not None
    gates.u.bias.sub_(3.0)
    if not (gates(x) == x).all():
        return 1.0
    nn.init.zeros_(gates.u.weight)
    nn.init.constant_(gates.u.bias, 2.0)
    return 6 / 5
