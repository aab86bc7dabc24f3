"""SimpleBaseline (Xiao et al., ECCV 2018) on the backbones that LiteDeconvPose is compared with.

A backbone to stride 32, three full transposed convolutions, 1x1 to the heatmaps. 17 joints:
MobileNetV3 8.670 M parameters, MobileNetV2 9.570 M, ShuffleNetV2 7.551 M, ResNet-50 34.00 M.
"""

from torch import Tensor, nn

from posenets.networks import mobilenetv2, mobilenetv3, shufflenetv2
from posenets.networks.blocks import ConvBN, bottleneck, initialise

WIDTH = 256
RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Planes and bottlenecks of each stage; all but the first halve the size."""


class SimpleBaseline(nn.Module):
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw."""

    def __init__(self, backbone: nn.Module, channels: int, joints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.up16 = deconvolution(channels, WIDTH)
        self.up8 = deconvolution(WIDTH, WIDTH)
        self.up4 = deconvolution(WIDTH, WIDTH)
        self.last = nn.Conv2d(WIDTH, joints, 1)
        initialise(self, last=self.last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)  # (N, C, H/32, W/32)
        x = self.up16(x)  # (N, 256, H/16, W/16)
        x = self.up8(x)  # (N, 256, H/8, W/8)
        x = self.up4(x)  # (N, 256, H/4, W/4)
        x = self.last(x)  # (N, J, H/4, W/4)
        return x


def simple_mobilenetv3(joints: int = 17) -> SimpleBaseline:
    numbers = mobilenetv3.LARGE
    return SimpleBaseline(mobilenetv3.MobileNetV3(numbers), numbers.channels_out, joints)


def simple_mobilenetv2(joints: int = 17) -> SimpleBaseline:
    return SimpleBaseline(mobilenetv2.MobileNetV2(), mobilenetv2.CHANNELS_OUT, joints)


def simple_shufflenetv2(joints: int = 17) -> SimpleBaseline:
    return SimpleBaseline(shufflenetv2.ShuffleNetV2(), shufflenetv2.CHANNELS_OUT, joints)


def simple_resnet50(joints: int = 17) -> SimpleBaseline:
    return SimpleBaseline(ResNet50(), 2048, joints)


class ResNet50(nn.Sequential):
    """(N, 3, H, W) -> (N, 2048, H/32, W/32); the stride is in the 3x3 (He et al., CVPR 2016)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [ConvBN(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for stage, (planes, blocks) in enumerate(RESNET50_STAGES):
            layers.append(bottleneck(channels, planes, stride=1 if stage == 0 else 2))
            channels = 4 * planes
            layers.extend(bottleneck(channels, planes) for _ in range(blocks - 1))
        super().__init__(*layers)


def deconvolution(channels_in: int, channels_out: int) -> nn.Sequential:
    """Transposed 4x4 of stride 2, BatchNorm, ReLU: (N, C, H, W) -> (N, D, 2H, 2W)."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
