"""LiteDeconvPose for inference: the same function with less than half the work in its head.

A depthwise transposed 4x4 of stride 2 is four depthwise convolutions of the small map, one for each
parity of row and column; as a ConvTranspose ONNX Runtime takes five times as long. What follows it
is pointwise, so the parities stay apart up to the next level, and at the last one through attention
and heatmaps: there 35 maps are interleaved in place of 256.
"""

import warnings

import torch
from torch import Tensor, nn

from posenets.networks.litedeconv import LiteDeconv, LiteDeconvPose, OwnAttention

PARITIES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Row and column of each quarter of the doubled map, in the order of a pixel shuffle."""
_TAPS = ((3, 1, None), (None, 2, 0))
"""For even and odd places: which of the four taps meets the place before, at, and behind."""


class FoldedLiteDeconv(nn.Module):
    """The network of `LiteDeconvPose`, in evaluation mode."""

    def __init__(self, network: LiteDeconvPose) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.up16, self.up8, self.up4 = map(Quarters, (network.up16, network.up8, network.up4))
        self.draw = (
            OwnDrawing(network.attention, network.last)
            if isinstance(network.attention, OwnAttention)
            else PlainDrawing(network.attention, network.last)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone(x)  # (N, 960, H/32, W/32)
        x = interleave(self.up16(x))  # (N, 256, H/16, W/16)
        x = interleave(self.up8(x))  # (N, 256, H/8, W/8)
        heatmaps: Tensor = self.draw(self.up4(x))  # (N, J, H/4, W/4)
        return heatmaps


class Quarters(nn.Module):
    """A `LiteDeconv` (N, C, H, W) -> four maps (N, D, H, W), one for each parity."""

    def __init__(self, level: LiteDeconv) -> None:
        super().__init__()
        transposed, norm, _, point, point_norm, _ = level
        assert isinstance(transposed, nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d)
        assert isinstance(point, nn.Conv2d) and isinstance(point_norm, nn.BatchNorm2d)
        self.depthwise = nn.ModuleList(_quarter(transposed, norm, *parity) for parity in PARITIES)
        self.point = _folded(point, point_norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [torch.relu(self.point(torch.relu(depthwise(x)))) for depthwise in self.depthwise]


class PlainDrawing(nn.Module):
    """Attention and heatmaps as they were."""

    def __init__(self, attention: nn.Module, last: nn.Conv2d) -> None:
        super().__init__()
        self.attention, self.last = attention, last

    def forward(self, quarters: list[Tensor]) -> Tensor:
        heatmaps: Tensor = self.last(self.attention(interleave(quarters)))
        return heatmaps


class OwnDrawing(nn.Module):
    """last(f (1 + c + s)) as W(1 + c) f + s W f + b, where c is per channel and s per place.

    Products give both sets of J maps and the map that s is made from; no weighted copy of f is
    made.
    """

    weight: Tensor
    static: Tensor
    bias: Tensor
    first_bias: Tensor

    def __init__(self, attention: OwnAttention, last: nn.Conv2d) -> None:
        super().__init__()
        first, _, *smooth = attention.spatial
        assert isinstance(first, nn.Conv2d) and first.bias is not None and last.bias is not None
        _, *channel = attention.channel.weigh  # all but the mean
        self.channel, self.smooth = nn.Sequential(*channel), nn.Sequential(*smooth)
        self.joints = last.out_channels
        weight = last.weight.detach().reshape(1, self.joints, -1)
        own = first.weight.detach().reshape(1, 1, -1)
        self.register_buffer("weight", weight.clone())  # (1, J, D)
        self.register_buffer("static", torch.cat([weight, own], 1))  # (1, J + 1, D)
        self.register_buffer("bias", last.bias.detach().reshape(1, -1, 1, 1).clone())
        self.register_buffer("first_bias", first.bias.detach().reshape(1, 1, 1, 1).clone())

    def forward(self, quarters: list[Tensor]) -> Tensor:
        width, *size = fixed_sizes(quarters[0])
        means = [quarter.mean((2, 3), keepdim=True) for quarter in quarters]
        gate = 1 + self.channel(sum(means[1:], means[0]) / 4)  # (N, D, 1, 1)
        by_channel = self.weight * gate.reshape(-1, 1, width)  # (N, J, D)
        flat = [quarter.reshape(-1, width, size[0] * size[1]) for quarter in quarters]
        drawn = [torch.cat([by_channel @ one, self.static @ one], 1) for one in flat]
        maps = interleave([one.reshape(-1, 2 * self.joints + 1, *size) for one in drawn])
        gated, plain, own = torch.split(maps, [self.joints, self.joints, 1], 1)
        by_place = self.smooth(torch.relu(own + self.first_bias))  # (N, 1, 4H, 4W)
        drawn_maps: Tensor = gated + by_place * plain + self.bias
        return drawn_maps


def fixed_sizes(x: Tensor) -> tuple[int, int, int]:
    """C, H, W of (N, C, H, W) as plain numbers, so that a traced graph holds constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return int(x.shape[1]), int(x.shape[2]), int(x.shape[3])


def interleave(quarters: list[Tensor]) -> Tensor:
    """Four maps (N, C, H, W) of the parities -> (N, C, 2H, 2W)."""
    channels, height, width = fixed_sizes(quarters[0])
    stacked = torch.stack(quarters, 2).reshape(-1, 4 * channels, height, width)
    return nn.functional.pixel_shuffle(stacked, 2)


@torch.no_grad()
def _quarter(
    transposed: nn.ConvTranspose2d, norm: nn.BatchNorm2d, row: int, column: int
) -> nn.Conv2d:
    """The depthwise 3x3, five of its taps zero, that makes the outputs of one parity."""
    channels = transposed.in_channels
    conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
    conv.weight.zero_()
    for y, from_row in enumerate(_TAPS[row]):
        for x, from_column in enumerate(_TAPS[column]):
            if from_row is not None and from_column is not None:
                conv.weight[:, :, y, x] = transposed.weight[:, :, from_row, from_column]
    return _folded(conv, norm)


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution with its BatchNorm, in evaluation mode, inside."""
    folded: nn.Conv2d = nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm.eval())
    return folded
