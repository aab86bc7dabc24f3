"""LE-HRNet: HRNet-W32 of Ghost modules, MCAM after each, CMFFM in place of the fusion.

17 joints: 5,516,293 parameters; without CMFFM 6,544,369, without MCAM and CMFFM 5,248,497.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posenets.networks.blocks import ConvBN, LiteConv, Residual, initialise, projection
from posenets.networks.high_resolution import HighResolutionNet, plain_fusion
from posenets.networks.mcam import MCAM, size_of


@dataclass(frozen=True, slots=True)
class LEHRNetNumbers:
    width: int = 32
    stem: int = 64
    planes: int = 64
    bottlenecks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    mcam: bool = True
    cmffm: bool = True


FULL = LEHRNetNumbers()
NO_CMFFM = LEHRNetNumbers(cmffm=False)
PLAIN = LEHRNetNumbers(mcam=False, cmffm=False)


class Exchange(nn.Module):
    """omega (N, C_i, 1, 1) for target i from source j, and the one map (N, 1, H_i, W_i) of j."""

    def __init__(self, target: int, source: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(channels[target], channels[target], 1),
            nn.ReLU(),
            nn.Conv2d(channels[target], channels[target], 1),
            nn.Sigmoid(),
        )
        steps = target - source
        self.shrink = nn.Sequential(
            *(
                ConvBN(channels[source], channels[source], 3, 2, groups=channels[source])
                for _ in range(steps)
            )
        )
        self.enlarge = (
            nn.Upsample(scale_factor=2**-steps, mode="nearest") if steps < 0 else nn.Identity()
        )

    def forward(self, target_mean: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        one_map = self.enlarge(self.shrink(source).mean(1, keepdim=True))
        return self.weigh(target_mean), one_map


class CMFFMRow(nn.Module):
    """Branch i gathers weighted maps of all others, then spatial attention and ReLU."""

    def __init__(self, target: int, channels: Sequence[int], size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.target, self.channels, self.size_hw = target, channels[target], size_hw
        self.exchanges = nn.ModuleList(
            Exchange(target, source, channels)
            for source in range(len(channels))
            if source != target
        )
        self.spatial = nn.Conv2d(2, 1, 7, 1, 3, bias=False)

    def forward(self, branches: list[Tensor]) -> Tensor:
        x = branches[self.target]
        height, width = size_of(self, x)
        mean = x.mean((2, 3), keepdim=True)
        sources = branches[: self.target] + branches[self.target + 1 :]
        pairs = [e(mean, source) for e, source in zip(self.exchanges, sources, strict=True)]
        # The outer products of all sources summed: one (C x S) (S x HW) product.
        omegas = torch.cat([omega for omega, _ in pairs], 2).reshape(-1, self.channels, len(pairs))
        maps = torch.cat([one for _, one in pairs], 1).reshape(-1, len(pairs), height * width)
        y = x + (omegas @ maps).reshape(-1, self.channels, height, width)
        peaks = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)  # (N, 2, H, W)
        return torch.relu(y * torch.sigmoid(self.spatial(peaks)))


class CMFFM(nn.Module):
    """The cross-resolution fusion: gives the first `outputs` branches."""

    def __init__(
        self, channels: Sequence[int], outputs: int, sizes_hw: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.rows = nn.ModuleList(CMFFMRow(i, channels, sizes_hw[i]) for i in range(outputs))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        return [row(branches) for row in self.rows]


def le_hrnet(
    joints: int = 17,
    size_wh: tuple[int, int] = (192, 256),
    numbers: LEHRNetNumbers = FULL,
) -> HighResolutionNet:
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw; exported for `size_wh` alone.

    The last fusion makes all four branches; `fold_for_export` drops those that nothing reads.
    """
    sizes_hw = [(size_wh[1] // (4 * 2**k), size_wh[0] // (4 * 2**k)) for k in range(4)]

    def branch(k: int) -> nn.Sequential:
        channels = numbers.width * 2**k
        return nn.Sequential(
            *(le_block(channels, sizes_hw[k], numbers.mcam) for _ in range(numbers.blocks))
        )

    def fuse(channels: Sequence[int], outputs: int) -> nn.Module:
        if numbers.cmffm:
            return CMFFM(channels, outputs, sizes_hw)
        return plain_fusion(channels, outputs)

    network = HighResolutionNet(
        joints,
        width=numbers.width,
        stem=numbers.stem,
        planes=numbers.planes,
        bottlenecks=numbers.bottlenecks,
        modules=numbers.modules,
        bottleneck=ghost_bottleneck,
        branch=branch,
        fuse=fuse,
    )
    initialise(network, last=network.last)
    return network


def le_block(channels: int, size_hw: tuple[int, int], mcam: bool) -> Residual:
    """Two Ghost modules, one MCAM after each, around an identity."""

    def attend() -> list[nn.Module]:
        return [MCAM(channels, size_hw)] if mcam else []

    return Residual(
        nn.Sequential(
            LiteConv(channels, channels, act=nn.ReLU),
            *attend(),
            LiteConv(channels, channels),
            *attend(),
        )
    )


def ghost_bottleneck(channels_in: int, planes: int) -> Residual:
    """The bottleneck of three Ghost modules, all with a 1x1; the shortcut stays plain."""
    return Residual(
        nn.Sequential(
            LiteConv(channels_in, planes, act=nn.ReLU),
            LiteConv(planes, planes, act=nn.ReLU),
            LiteConv(planes, 4 * planes),
        ),
        projection(channels_in, 4 * planes),
    )
