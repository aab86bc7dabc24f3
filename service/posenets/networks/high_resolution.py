"""The frame that HRNet and all its relatives fill with their own blocks and fusions.

Branch k has width * 2^k channels at stride 4 * 2^k. A module runs its branches side by side and
then exchanges between them; a stage is a few modules; each stage has one branch more.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from torch import Tensor, nn

from posenets.networks.blocks import ConvBN


class Fuse(Protocol):
    """Makes a fusion of branches with `channels`, which gives the first `outputs` of them."""

    def __call__(self, channels: Sequence[int], outputs: int) -> nn.Module: ...


class Fusion(nn.Module):
    """Output i is ReLU(sum over j of path_ij(x_j)).

    `down(channels_in, channels_out, steps)` halves a finer branch `steps` times, `up` doubles a
    coarser one; equal sizes are the identity.
    """

    def __init__(
        self,
        channels: Sequence[int],
        outputs: int,
        *,
        down: Callable[[int, int, int], nn.Module],
        up: Callable[[int, int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.rows = nn.ModuleList(
            nn.ModuleList(
                nn.Identity()
                if i == j
                else up(channels[j], channels[i], j - i)
                if j > i
                else down(channels[j], channels[i], i - j)
                for j in range(len(channels))
            )
            for i in range(outputs)
        )
        self.relu = nn.ReLU()

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        outputs = []
        for paths in self.rows:
            assert isinstance(paths, nn.ModuleList)
            first, *others = (path(x) for path, x in zip(paths, branches, strict=True))
            outputs.append(self.relu(sum(others, first)))
        return outputs


class Module(nn.Module):
    """Branches side by side, then their fusion."""

    def __init__(self, branches: Iterable[nn.Module], fusion: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.fusion = fusion

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        ys = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        fused: list[Tensor] = self.fusion(ys)
        return fused


def plain_stem(channels: int) -> nn.Sequential:
    """Two 3x3 convolutions of stride 2: (N, 3, H, W) -> (N, channels, H/4, W/4)."""
    return nn.Sequential(
        ConvBN(3, channels, 3, 2, act=nn.ReLU), ConvBN(channels, channels, 3, 2, act=nn.ReLU)
    )


def plain_shrink(channels_in: int, channels_out: int) -> ConvBN:
    """How HRNet begins a new branch: a 3x3 convolution of stride 2 and a ReLU."""
    return ConvBN(channels_in, channels_out, 3, 2, act=nn.ReLU)


class HighResolutionNet(nn.Module):
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw; each family fills it with its own blocks.

    `bottleneck(channels_in, planes)` gives 4 * planes channels, `branch(k)` makes the blocks of
    branch k, `shrink(channels_in, channels_out)` halves a branch to begin the next one, and stage
    2, 3 and 4 have as many modules as `modules` says. The last fusion makes `last_outputs`
    branches, all unless told, of which the heatmaps read the first.
    """

    def __init__(
        self,
        joints: int,
        *,
        width: int,
        stem: int,
        planes: int,
        bottlenecks: int,
        modules: tuple[int, int, int],
        bottleneck: Callable[[int, int], nn.Module],
        branch: Callable[[int], nn.Module],
        fuse: Fuse,
        shrink: Callable[[int, int], nn.Module] = plain_shrink,
        last_outputs: int | None = None,
    ) -> None:
        super().__init__()
        c, top = width, 4 * planes
        self.stem = plain_stem(stem)
        self.stage1 = nn.Sequential(
            bottleneck(stem, planes), *(bottleneck(top, planes) for _ in range(bottlenecks - 1))
        )
        finest = ConvBN(top, c, 3, act=nn.ReLU)
        self.transition1 = nn.ModuleList([finest, shrink(top, 2 * c)])
        self.stage2 = stage(c, 2, modules[0], branch=branch, fuse=fuse)
        self.transition2 = shrink(2 * c, 4 * c)
        self.stage3 = stage(c, 3, modules[1], branch=branch, fuse=fuse)
        self.transition3 = shrink(4 * c, 8 * c)
        self.stage4 = stage(c, 4, modules[2], branch=branch, fuse=fuse, last_outputs=last_outputs)
        self.last = nn.Conv2d(c, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (N, stem, H/4, W/4)
        x = self.stage1(x)  # (N, 4 planes, H/4, W/4)
        xs = [transition(x) for transition in self.transition1]  # strides 4, 8: C, 2C
        xs = self.stage2(xs)
        xs = self.stage3([*xs, self.transition2(xs[-1])])  # strides 4, 8, 16: C, 2C, 4C
        xs = self.stage4([*xs, self.transition3(xs[-1])])  # strides 4, 8, 16, 32: C, 2C, 4C, 8C
        heatmaps: Tensor = self.last(xs[0])  # (N, J, H/4, W/4)
        return heatmaps


def stage(
    width: int,
    branches: int,
    modules: int,
    *,
    branch: Callable[[int], nn.Module],
    fuse: Fuse,
    last_outputs: int | None = None,
) -> nn.Sequential:
    """`modules` modules of `branches` branches; `branch(k)` makes the blocks of branch k.

    The last module's fusion makes `last_outputs` branches, all unless told.
    """
    channels = [width * 2**k for k in range(branches)]
    outputs = [branches] * (modules - 1) + [last_outputs or branches]
    return nn.Sequential(
        *(Module([branch(k) for k in range(branches)], fuse(channels, o)) for o in outputs)
    )


def plain_down(channels_in: int, channels_out: int, steps: int) -> nn.Sequential:
    """`steps` 3x3 convolutions of stride 2; the last changes the width and has no ReLU."""
    return nn.Sequential(
        *(ConvBN(channels_in, channels_in, 3, 2, act=nn.ReLU) for _ in range(steps - 1)),
        ConvBN(channels_in, channels_out, 3, 2),
    )


def nearest_up(channels_in: int, channels_out: int, steps: int) -> nn.Sequential:
    """1x1 at the low resolution, then each value repeated over 2^steps x 2^steps."""
    return nn.Sequential(
        ConvBN(channels_in, channels_out), nn.Upsample(scale_factor=2**steps, mode="nearest")
    )


def plain_fusion(channels: Sequence[int], outputs: int) -> Fusion:
    """HRNet's fusion."""
    return Fusion(channels, outputs, down=plain_down, up=nearest_up)
