"""ShuffleNetV2 1.0 (Ma et al., ECCV 2018), up to its 1024-channel layer."""

import torch
from torch import Tensor, nn

from posenets.networks.blocks import ChannelShuffle, ConvBN

CHANNELS_OUT = 1024
STEM = 24
STAGES = ((116, 4), (232, 8), (464, 4))
"""Channels and units of each stage; the first unit of a stage has stride 2."""


class ShuffleDown(nn.Module):
    """Stride 2: both halves of the outputs are made from all inputs."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.left = nn.Sequential(
            ConvBN(channels_in, channels_in, 3, 2, groups=channels_in),
            ConvBN(channels_in, half, act=nn.ReLU),
        )
        self.right = _unit(channels_in, half, stride=2)
        self.shuffle = ChannelShuffle(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(torch.cat([self.left(x), self.right(x)], 1))
        return y  # (N, D, H/2, W/2)


class ShuffleUnit(nn.Module):
    """Stride 1: one half of the channels passes, the other goes through the unit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        self.right = _unit(self.split, self.split, stride=1)
        self.shuffle = ChannelShuffle(channels)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(x, self.split, 1)
        y: Tensor = self.shuffle(torch.cat([left, self.right(right)], 1))
        return y  # (N, C, H, W)


class ShuffleNetV2(nn.Sequential):
    """(N, 3, H, W) -> (N, 1024, H/32, W/32)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [ConvBN(3, STEM, 3, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
        channels = STEM
        for out, units in STAGES:
            layers.append(ShuffleDown(channels, out))
            layers.extend(ShuffleUnit(out) for _ in range(units - 1))
            channels = out
        super().__init__(*layers, ConvBN(channels, CHANNELS_OUT, act=nn.ReLU))


def _unit(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBN(channels_in, channels_out, act=nn.ReLU),
        ConvBN(channels_out, channels_out, 3, stride, groups=channels_out),
        ConvBN(channels_out, channels_out, act=nn.ReLU),
    )
