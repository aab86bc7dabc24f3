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
_LOADED = 4
"""Blocks that may start from folded weights."""


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
def load_folded_weights(backbone: MobileNetV3Small, path: Path, sample: Tensor) -> None:
    """Start the stem and blocks 1 to 4 from weights whose BatchNorm was folded into them.

    `path` is an .npz of `convNN.weight` / `convNN.bias` in graph order. Each BatchNorm is set from
    `sample` (N, 3, H, W), a batch of normalised photos, so that it reproduces convolution + bias:
    its statistics are the batch's, its scale their deviation, its shift mean + bias. Then filters
    are brought to length 1 and the blocks' outputs to deviation 1, for a step of Adam is as long
    for a weight of 10 as for one of 0.1, and gates that are shut for good are opened.

    The later blocks start afresh: as stored, their activations grow to hundreds, gates and
    activations saturate, and after 350,000 crops of training the network was as good without any
    one of blocks 5, 6, 8, 10 and 11.
    """
    with np.load(path) as stored:
        weights = dict(stored)
    modules = [
        module
        for layer in list(backbone)[: _LOADED + 1]
        for module in layer.modules()
        if isinstance(module, ConvNorm | SqueezeExcite)
    ]
    hooks = []

    def calibrate(norm: nn.BatchNorm2d, bias: Tensor) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            variance, mean = torch.var_mean(inputs[0], (0, 2, 3), unbiased=False)
            norm.running_mean = mean.clone()
            norm.running_var = variance.clone()
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean + bias)

        hooks.append(norm.register_forward_pre_hook(hook))

    index = 0
    for module in modules:
        for conv in _convolutions(module):
            conv.weight.copy_(torch.from_numpy(weights[f"conv{index:02d}.weight"]))
            bias = torch.from_numpy(weights[f"conv{index:02d}.bias"])
            if conv.bias is not None:
                conv.bias.copy_(bias)
            else:
                calibrate(cast(nn.BatchNorm2d, module.n), bias)
            index += 1
    was_training = backbone.training
    backbone.eval()
    outputs = []
    for layer in list(backbone)[: _LOADED + 1]:
        sample = layer(sample)
        outputs.append(sample.std().item())
    backbone.train(was_training)
    for hook in hooks:
        hook.remove()
    _even_out(backbone, outputs)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    names = ("d", "u") if isinstance(module, SqueezeExcite) else ("c",)
    return [cast(nn.Conv2d, getattr(module, name)) for name in names]


def _even_out(backbone: MobileNetV3Small, deviations: list[float]) -> None:
    """Same function, other scale: filters of length 1, blocks 1 to 4 with outputs of deviation 1.

    `deviations` of the outputs of the stem and the blocks. Squeeze-excite gates start at 5/6.
    """
    blocks = [cast(InvertedResidual, block) for block in list(backbone)[1 : _LOADED + 2]]
    for number, block in enumerate(blocks[:-1], 1):
        # A block that adds to what comes in shares its scale with the block before.
        shared = number < _LOADED and blocks[number].residual
        scale = deviations[number + 1 if shared else number]
        norm = cast(nn.BatchNorm2d, block.p.n)
        norm.weight.div_(scale)
        norm.bias.div_(scale)
        if number < _LOADED:
            _rescale_input(cast(ConvNorm, blocks[number].e), scale)
        if isinstance(block.se, SqueezeExcite):
            nn.init.kaiming_normal_(block.se.d.weight)
            nn.init.zeros_(block.se.u.weight)
            assert block.se.u.bias is not None
            nn.init.constant_(block.se.u.bias, 2.0)
    for layer in list(backbone)[: _LOADED + 1]:
        for module in layer.modules():
            if isinstance(module, ConvNorm):
                conv = cast(nn.Conv2d, module.c)
                length = conv.weight.flatten(1).norm(dim=1).mean().item()
                conv.weight /= length
                _rescale_input(module, length)


def _rescale_input(module: ConvNorm, scale: float) -> None:
    """What comes to the BatchNorm is now `scale` times smaller."""
    norm = cast(nn.BatchNorm2d, module.n)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean /= scale
    norm.running_var /= scale**2
