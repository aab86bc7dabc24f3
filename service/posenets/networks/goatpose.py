"""GoatPose: HRNet of LiteConvs, C channels from the start, NAM-C on every branch.

17 joints: W32 (BL, BH) 15,564,497 parameters, W48 (XL, XH) 34,907,825.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from posenets.networks.blocks import (
    ConvBN,
    LiteConv,
    Residual,
    initialise,
    lite_basic_block,
    projection,
)
from posenets.networks.high_resolution import (
    Fusion,
    HighResolutionNet,
    plain_down,
    plain_stem,
    stage,
)
from posenets.networks.nam import NamChannel


@dataclass(frozen=True, slots=True)
class GoatPoseNumbers:
    width: int = 32
    bottlenecks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4


B = GoatPoseNumbers()
X = GoatPoseNumbers(width=48)


def goatpose(joints: int = 17, numbers: GoatPoseNumbers = B) -> HighResolutionNet:
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw."""
    c = numbers.width
    modules2, modules3, modules4 = numbers.modules

    def branch(k: int) -> nn.Sequential:
        channels = c * 2**k
        blocks = (lite_basic_block(channels) for _ in range(numbers.blocks))
        return nn.Sequential(*blocks, NamChannel(channels))

    network = HighResolutionNet(
        stem=plain_stem(c),  # (N, C, H/4, W/4)
        stage1=nn.Sequential(  # (N, 4C, H/4, W/4)
            lite_bottleneck(c, c),
            *(lite_bottleneck(4 * c, c) for _ in range(numbers.bottlenecks - 1)),
        ),
        transition1=(ConvBN(4 * c, c, 3, act=nn.ReLU), ConvBN(4 * c, 2 * c, 3, 2, act=nn.ReLU)),
        stage2=stage(c, 2, modules2, branch=branch, fuse=bilinear_fusion),
        transition2=ConvBN(2 * c, 4 * c, 3, 2, act=nn.ReLU),
        stage3=stage(c, 3, modules3, branch=branch, fuse=bilinear_fusion),
        transition3=ConvBN(4 * c, 8 * c, 3, 2, act=nn.ReLU),
        stage4=stage(c, 4, modules4, branch=branch, fuse=bilinear_fusion, last_outputs=1),
        last=nn.Conv2d(c, joints, 1),
    )
    initialise(network, last=network.last)
    return network


def lite_bottleneck(channels_in: int, planes: int) -> Residual:
    """The bottleneck with all three convolutions LiteConvs; the shortcut stays plain."""
    return Residual(
        nn.Sequential(
            LiteConv(channels_in, planes, 1, act=nn.ReLU),
            LiteConv(planes, planes, 3, act=nn.ReLU),
            LiteConv(planes, 4 * planes, 1),
        ),
        projection(channels_in, 4 * planes),
    )


def bilinear_up(channels_in: int, channels_out: int, steps: int) -> nn.Sequential:
    """1x1 at the low resolution (it commutes with the interpolation), then bilinear."""
    return nn.Sequential(
        ConvBN(channels_in, channels_out),
        nn.Upsample(scale_factor=2**steps, mode="bilinear", align_corners=False),
    )


def bilinear_fusion(channels: Sequence[int], outputs: int) -> Fusion:
    """HRNet's fusion with smooth upsampling."""
    return Fusion(channels, outputs, down=plain_down, up=bilinear_up)
