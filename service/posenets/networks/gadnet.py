"""GADNet: HRNet of GaBlocks, with GDModules for all downsampling, and its ablation forms.

17 joints: GADNet-W32 10,900,687 parameters, GADNet-W48 24,003,323.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from posenets.networks.blocks import (
    ConvBN,
    LiteConv,
    Residual,
    SqueezeExcite,
    bottleneck,
    initialise,
    lite_basic_block,
)
from posenets.networks.high_resolution import Fusion, HighResolutionNet, nearest_up
from posenets.networks.hrnet import hrnet

REDUCTION = 16


@dataclass(frozen=True, slots=True)
class GADNetNumbers:
    width: int = 32
    stem: int = 64
    planes: int = 64
    bottlenecks: int = 3
    modules: tuple[int, int, int] = (1, 4, 2)
    blocks: tuple[int, int, int, int] = (2, 2, 4, 4)
    """GaBlocks of each branch: two equal, two doubled."""


W32 = GADNetNumbers()
W48 = GADNetNumbers(width=48)


class GaConv(LiteConv):
    """LiteConv whose ghost half is made from the attended intrinsic half."""

    def __init__(self, channels_in: int, channels_out: int, *, relu: bool) -> None:
        super().__init__(channels_in, channels_out, 3, act=nn.ReLU if relu else None)
        self.attend = _attend(channels_out // 2)

    def forward(self, x: Tensor) -> Tensor:
        u = self.intrinsic(x)  # (N, D/2, H, W)
        return torch.cat([u, self.ghost(self.attend(u))], 1)  # (N, D, H, W)


class GdBlock(nn.Module):
    """Stride 2: half the outputs by a 3x3, half by a grouped 3x3 with attention, in parallel."""

    def __init__(self, channels_in: int, channels_out: int, *, relu: bool = True) -> None:
        super().__init__()
        half = channels_out // 2
        act = nn.ReLU if relu else None
        self.intrinsic = ConvBN(channels_in, channels_out - half, 3, 2, act=act)
        self.ghost = nn.Sequential(
            ConvBN(channels_in, half, 3, 2, groups=gcd(channels_in, half), act=act),
            _attend(half),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.intrinsic(x), self.ghost(x)], 1)  # (N, D, H/2, W/2)


def gadnet(joints: int = 17, numbers: GADNetNumbers = W32) -> HighResolutionNet:
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw.

    The last fusion makes all four branches; `fold_for_export` drops those that nothing reads.
    """

    def branch(k: int) -> nn.Sequential:
        channels = numbers.width * 2**k
        return nn.Sequential(*(ga_block(channels) for _ in range(numbers.blocks[k])))

    network = HighResolutionNet(
        joints,
        width=numbers.width,
        stem=numbers.stem,
        planes=numbers.planes,
        bottlenecks=numbers.bottlenecks,
        modules=numbers.modules,
        bottleneck=bottleneck,
        branch=branch,
        fuse=gd_fusion,
        shrink=GdBlock,
    )
    initialise(network, last=network.last)
    return network


def ghost_hrnet(joints: int = 17) -> HighResolutionNet:
    """Ablation: HRNet-W32 with Ghost basic blocks."""
    return hrnet(joints, block=lite_basic_block)


def ghost_se_hrnet(joints: int = 17) -> HighResolutionNet:
    """Ablation: the same, squeeze-excite on the output of each block before the identity."""
    return hrnet(joints, block=_ghost_se_block)


def ga_block(channels: int) -> Residual:
    """HRNet's basic block of GaConvs, the second without ReLUs."""
    return Residual(
        nn.Sequential(GaConv(channels, channels, relu=True), GaConv(channels, channels, relu=False))
    )


def gd_module(channels_in: int, channels_out: int, steps: int) -> nn.Sequential:
    """`steps` GdBlocks; the last changes the width and has no ReLU."""
    return nn.Sequential(
        *(GdBlock(channels_in, channels_in) for _ in range(steps - 1)),
        GdBlock(channels_in, channels_out, relu=False),
    )


def gd_fusion(channels: Sequence[int], outputs: int) -> Fusion:
    """Finer to coarser by GDModules, coarser to finer as HRNet."""
    return Fusion(channels, outputs, down=gd_module, up=nearest_up)


def _ghost_se_block(channels: int) -> Residual:
    ghosts = lite_basic_block(channels).body
    return Residual(nn.Sequential(ghosts, _attend(channels)))


def _attend(channels: int) -> SqueezeExcite:
    return SqueezeExcite(channels, max(1, channels // REDUCTION))
