"""LiteDeconvPose: MobileNetV3, three light deconvolutions, one attention, 1x1 to the heatmaps.

The network of the heatmap-weighting-loss paper (HWL). 17 joints: 3,077,882 parameters, 0.580
GFLOPs at 256x192.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from posenets.networks.blocks import SqueezeExcite, initialise
from posenets.networks.mobilenetv3 import LARGE, SMALL, MobileNetV3, MobileNetV3Numbers

Attention = Literal["none", "se", "cbam", "own"]


@dataclass(frozen=True, slots=True)
class LiteDeconvNumbers:
    backbone: MobileNetV3Numbers = LARGE
    width: int = 256
    attention: Attention = "own"
    squeeze: int = 4


class LiteDeconv(nn.Sequential):
    """Depthwise 4x4 transposed convolution, then 1x1 with bias: (N, C, H, W) -> (N, D, 2H, 2W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels_in, channels_in, 4, 2, 1, groups=channels_in, bias=False),
            nn.BatchNorm2d(channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class OwnAttention(nn.Module):
    """f + channel(f) + spatial(f) of the paper, with the inner ReLUs of its implementation."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.channel = SqueezeExcite(channels, channels // squeeze, nn.Hardsigmoid)
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 3, 1, 1), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        by_channel: Tensor = self.channel.weigh(x)  # (N, C, 1, 1)
        by_place: Tensor = self.spatial(x)  # (N, 1, H, W)
        return x + x * by_channel + x * by_place


class CBAM(nn.Module):
    """Channel gate, then spatial gate, each from mean and maximum (Woo et al., ECCV 2018)."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.Conv2d(channels, channels // squeeze, 1),
            nn.ReLU(),
            nn.Conv2d(channels // squeeze, channels, 1),
        )
        self.spatial = nn.Conv2d(2, 1, 7, 1, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.channel(mean) + self.channel(peak))
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)  # (N, 2, H, W)
        return x * torch.sigmoid(self.spatial(maps))


class LiteDeconvPose(nn.Module):
    """(N, 3, H, W) -> heatmaps (N, J, H/4, W/4), raw."""

    def __init__(self, joints: int = 17, numbers: LiteDeconvNumbers = LiteDeconvNumbers()) -> None:
        super().__init__()
        width = numbers.width
        self.backbone = MobileNetV3(numbers.backbone)
        self.up16 = LiteDeconv(numbers.backbone.channels_out, width)
        self.up8 = LiteDeconv(width, width)
        self.up4 = LiteDeconv(width, width)
        self.attention = _attention(numbers.attention, width, numbers.squeeze)
        self.last = nn.Conv2d(width, joints, 1)
        initialise(self, last=self.last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)  # (N, 960, H/32, W/32)
        x = self.up16(x)  # (N, 256, H/16, W/16)
        x = self.up8(x)  # (N, 256, H/8, W/8)
        x = self.up4(x)  # (N, 256, H/4, W/4)
        x = self.attention(x)
        x = self.last(x)  # (N, J, H/4, W/4)
        return x


def litedeconv_small(joints: int = 17, width: int = 256) -> LiteDeconvPose:
    """The same head on MobileNetV3-Small."""
    return LiteDeconvPose(joints, LiteDeconvNumbers(backbone=SMALL, width=width))


def _attention(kind: Attention, channels: int, squeeze: int) -> nn.Module:
    if kind == "own":
        return OwnAttention(channels, squeeze)
    if kind == "se":
        return SqueezeExcite(channels, channels // squeeze)
    if kind == "cbam":
        return CBAM(channels, squeeze)
    return nn.Identity()
