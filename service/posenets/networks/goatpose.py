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
from posenets.networks.high_resolution import Fusion, HighResolutionNet, plain_down
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

    def branch(k: int) -> nn.Sequential:
        channels = c * 2**k
        blocks = (lite_basic_block(channels) for _ in range(numbers.blocks))
        return nn.Sequential(*blocks, NamChannel(channels))

    network = HighResolutionNet(
        joints,
        width=c,
        stem=c,
        planes=c,
        bottlenecks=numbers.bottlenecks,
        modules=numbers.modules,
        bottleneck=lite_bottleneck,
        branch=branch,
        fuse=bilinear_fusion,
        last_outputs=1,
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
