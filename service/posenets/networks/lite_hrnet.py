"""Lite-HRNet-18 and -30 (Yu et al., CVPR 2021), the rivals that the papers are measured against.

Conditional channel weighting replaces the 1x1 convolutions of shuffle blocks. 17 joints: 1.1 M
parameters and 0.20 GFLOPs, 1.8 M and 0.31, at 256x192. The fusion is the paper's sum; the authors'
code adds the finest branch to it twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posenets.networks.blocks import ChannelShuffle, ConvBN, SqueezeExcite, initialise
from posenets.networks.high_resolution import Fusion, nearest_up


@dataclass(frozen=True, slots=True)
class LiteHRNetNumbers:
    modules: tuple[int, int, int] = (2, 4, 2)
    width: int = 40
    stem: int = 32
    blocks: int = 2
    cross_reduction: int = 8
    spatial_reduction: int = 4


LITE_18 = LiteHRNetNumbers()
LITE_30 = LiteHRNetNumbers(modules=(3, 8, 3))


class Stem(nn.Module):
    """3x3 of stride 2, then a shuffle unit of stride 2: (N, 3, H, W) -> (N, C, H/4, W/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = half = channels // 2
        self.first = ConvBN(3, channels, 3, 2, act=nn.ReLU)
        self.left = nn.Sequential(
            ConvBN(half, half, 3, 2, groups=half), ConvBN(half, half, act=nn.ReLU)
        )
        self.right = nn.Sequential(
            ConvBN(half, channels, act=nn.ReLU),
            ConvBN(channels, channels, 3, 2, groups=channels),
            ConvBN(channels, half, act=nn.ReLU),
        )
        self.shuffle = ChannelShuffle(channels)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.first(x), self.split, 1)
        y: Tensor = self.shuffle(torch.cat([self.left(left), self.right(right)], 1))
        return y


class CrossResolutionWeighting(nn.Module):
    """Weights for every channel and place of all branches, made at the coarsest resolution."""

    def __init__(self, channels: Sequence[int], reduction: int) -> None:
        super().__init__()
        self.channels = list(channels)
        total = sum(channels)
        # Branch k is 2^(last - k) times the coarsest size: pooling by a fixed factor is exact.
        factors = [2 ** (len(channels) - 1 - k) for k in range(len(channels))]
        self.pool = nn.ModuleList(nn.AvgPool2d(f) if f > 1 else nn.Identity() for f in factors)
        self.spread = nn.ModuleList(
            nn.Upsample(scale_factor=f, mode="nearest") if f > 1 else nn.Identity() for f in factors
        )
        self.weigh = nn.Sequential(
            ConvBN(total, total // reduction, act=nn.ReLU),
            ConvBN(total // reduction, total, act=nn.Sigmoid),
        )

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        coarse = torch.cat([pool(x) for pool, x in zip(self.pool, xs, strict=True)], 1)
        weights = torch.split(self.weigh(coarse), self.channels, 1)
        return [x * up(w) for x, up, w in zip(xs, self.spread, weights, strict=True)]


class ConditionalChannelWeighting(nn.Module):
    """One half of each branch passes; the other is weighted, filtered and weighted again."""

    def __init__(self, channels: Sequence[int], numbers: LiteHRNetNumbers) -> None:
        super().__init__()
        self.halves = [c // 2 for c in channels]
        self.across = CrossResolutionWeighting(self.halves, numbers.cross_reduction)
        self.within = nn.ModuleList(
            nn.Sequential(
                ConvBN(c, c, 3, groups=c), SqueezeExcite(c, c // numbers.spatial_reduction)
            )
            for c in self.halves
        )
        self.shuffle = nn.ModuleList(ChannelShuffle(c) for c in channels)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        halves = [torch.split(x, c, 1) for x, c in zip(xs, self.halves, strict=True)]
        rights = self.across([right for _, right in halves])
        return [
            shuffle(torch.cat([left, within(right)], 1))
            for (left, _), within, right, shuffle in zip(
                halves, self.within, rights, self.shuffle, strict=True
            )
        ]


class LiteStage(nn.Sequential):
    """`modules` times: weighting blocks over all branches, then the fusion."""

    def __init__(self, branches: int, modules: int, numbers: LiteHRNetNumbers) -> None:
        channels = [numbers.width * 2**k for k in range(branches)]
        layers: list[nn.Module] = []
        for _ in range(modules):
            layers.extend(
                ConditionalChannelWeighting(channels, numbers) for _ in range(numbers.blocks)
            )
            layers.append(Fusion(channels, branches, down=separable_down, up=nearest_up))
        super().__init__(*layers)


class LiteHRNet(nn.Module):
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw."""

    def __init__(self, joints: int = 17, numbers: LiteHRNetNumbers = LITE_18) -> None:
        super().__init__()
        c = numbers.width
        self.stem = Stem(numbers.stem)
        self.transition1 = nn.ModuleList(
            [separable(numbers.stem, c), separable(numbers.stem, 2 * c, stride=2)]
        )
        self.stage2 = LiteStage(2, numbers.modules[0], numbers)
        self.transition2 = separable(2 * c, 4 * c, stride=2)
        self.stage3 = LiteStage(3, numbers.modules[1], numbers)
        self.transition3 = separable(4 * c, 8 * c, stride=2)
        self.stage4 = LiteStage(4, numbers.modules[2], numbers)
        self.up = nn.ModuleList(
            nn.Sequential(
                separable(c * 2**k, c * 2 ** (k - 1)),
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            )
            for k in (3, 2, 1)
        )
        self.finest = separable(c, c)
        self.last = nn.Conv2d(c, joints, 1)
        initialise(self, last=self.last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, 32, H/4, W/4)
        xs = [transition(x) for transition in self.transition1]  # strides 4, 8: C, 2C
        xs = self.stage2(xs)
        xs = self.stage3([*xs, self.transition2(xs[-1])])  # strides 4, 8, 16: C, 2C, 4C
        xs = self.stage4([*xs, self.transition3(xs[-1])])  # strides 4, 8, 16, 32: C, 2C, 4C, 8C
        x = xs[-1]
        for up, finer in zip(self.up, xs[-2::-1], strict=True):
            x = finer + up(x)  # (N, 4C, H/16, W/16), then 2C at H/8, C at H/4
        x = self.finest(x)  # (N, C, H/4, W/4)
        x = self.last(x)  # (N, J, H/4, W/4)
        return x


def separable(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and 1x1, each with BatchNorm, and a ReLU at the end."""
    return nn.Sequential(
        ConvBN(channels_in, channels_in, 3, stride, groups=channels_in),
        ConvBN(channels_in, channels_out, act=nn.ReLU),
    )


def separable_down(channels_in: int, channels_out: int, steps: int) -> nn.Sequential:
    """`steps` separable convolutions of stride 2; the last has no ReLU."""
    return nn.Sequential(
        *(separable(channels_in, channels_in, stride=2) for _ in range(steps - 1)),
        ConvBN(channels_in, channels_in, 3, 2, groups=channels_in),
        ConvBN(channels_in, channels_out),
    )
