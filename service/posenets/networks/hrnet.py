"""HRNet (Sun et al., CVPR 2019), the small HRNet-W16 and HRNet with NAM-C.

17 joints: HRNet-W32 28,536,113 parameters, HRNet-W48 63,595,745, Small HRNet-W16 1,284,961.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from posenets.networks.blocks import basic_block, bottleneck
from posenets.networks.high_resolution import HighResolutionNet, plain_fusion
from posenets.networks.nam import NamChannel


@dataclass(frozen=True, slots=True)
class HRNetNumbers:
    width: int = 32
    stem: int = 64
    planes: int = 64
    bottlenecks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    nam: bool = False
    """NAM-C after the blocks of every branch: NAM-HRNet, an ablation of GoatPose."""


W32 = HRNetNumbers()
W48 = HRNetNumbers(width=48)
SMALL_W16 = HRNetNumbers(width=16, planes=32, bottlenecks=1, modules=(1, 1, 1), blocks=2)
NAM_W32 = HRNetNumbers(nam=True)


def hrnet(
    joints: int = 17,
    numbers: HRNetNumbers = W32,
    block: Callable[[int], nn.Module] = basic_block,
) -> HighResolutionNet:
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw; `block(channels)` fills the branches."""

    def branch(k: int) -> nn.Sequential:
        channels = numbers.width * 2**k
        blocks = [block(channels) for _ in range(numbers.blocks)]
        return nn.Sequential(*blocks, *([NamChannel(channels)] if numbers.nam else []))

    network = HighResolutionNet(
        joints,
        width=numbers.width,
        stem=numbers.stem,
        planes=numbers.planes,
        bottlenecks=numbers.bottlenecks,
        modules=numbers.modules,
        bottleneck=bottleneck,
        branch=branch,
        fuse=plain_fusion,
        last_outputs=1,
    )
    initialise_small(network)
    return network


def initialise_small(network: nn.Module) -> None:
    """The reference's start: convolution weights normal with std 0.001, biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.001)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
