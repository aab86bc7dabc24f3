"""MCAM, the multi-scale coordinate attention of LE-HRNet, with all sizes fixed in the export.

The groups share no weights, so every layer is a grouped convolution over (N, C, H, W), and a view
(N, G, c, H, W) shows the groups in order: G groups of c = C/G channels.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

GROUPS = 8
KERNELS = (3, 5, 7)


class MCAM(nn.Module):
    """X * omega, one map omega per group: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, size_hw: tuple[int, int], groups: int = GROUPS) -> None:
        super().__init__()
        self.channels, self.groups, self.size_hw = channels, groups, size_hw
        c = channels // groups
        self.split = [c - 2 * (c // 3), c // 3, c // 3]
        self.coordinates = nn.Conv2d(channels, channels, 1, groups=groups)
        self.scales = nn.ModuleList(
            nn.Conv2d(groups * n, groups * n, kernel, 1, kernel // 2, groups=groups * n)
            for n, kernel in zip(self.split, KERNELS, strict=True)
        )
        self.mix = nn.Conv2d(channels, channels, 1, groups=groups)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        groups, c, (height, width) = self.groups, self.channels // self.groups, size_of(self, x)
        views = torch.split(x.reshape(-1, groups, c, height, width), self.split, 2)
        parts = [
            scale(view.reshape(-1, groups * n, height, width)).reshape(-1, groups, n, height, width)
            for view, n, scale in zip(views, self.split, self.scales, strict=True)
        ]
        multi = self.norm(self.mix(torch.cat(parts, 2).reshape(-1, self.channels, height, width)))
        weights = channel_weights(self, x)  # (N, G, 1, c)
        omega = torch.sigmoid(weights @ multi.reshape(-1, groups, c, height * width))
        return gate_groups(self, x, omega)

    def folded(self) -> "FoldedMCAM":
        """The same function with a third of the passes over the maps; for evaluation only."""
        return FoldedMCAM(self)


class FoldedMCAM(nn.Module):
    """MCAM at inference.

    All kernels become one depthwise 7x7 (zeros around the smaller ones). The 1x1 and the BatchNorm
    behind it are linear, so they are applied to the channel weights instead of to the maps.
    """

    matrix: Tensor
    offset: Tensor

    def __init__(self, mcam: MCAM) -> None:
        super().__init__()
        self.channels, self.groups, self.size_hw = mcam.channels, mcam.groups, mcam.size_hw
        self.coordinates = mcam.coordinates
        self.scale = _one_depthwise(mcam)
        matrix, offset = _mix_and_norm(mcam)
        self.register_buffer("matrix", matrix)  # (G, c, c)
        self.register_buffer("offset", offset)  # (G, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        groups, c, (height, width) = self.groups, self.channels // self.groups, size_of(self, x)
        weights = channel_weights(self, x)  # (N, G, 1, c)
        maps = self.scale(x).reshape(-1, groups, c, height * width)
        omega = torch.sigmoid((weights @ self.matrix) @ maps + weights @ self.offset)
        return gate_groups(self, x, omega)


class Sized(Protocol):
    """A layer whose maps have `size_hw` (height, width) in the export."""

    size_hw: tuple[int, int]


def size_of(layer: Sized, x: Tensor) -> tuple[int, int]:
    """Height and width of x (N, C, H, W): as built while tracing, so that the graph holds numbers.

    Training may grow its input: no weight depends on the size.
    """
    if torch.jit.is_tracing():
        return layer.size_hw
    return x.shape[2], x.shape[3]


def channel_weights(mcam: MCAM | FoldedMCAM, x: Tensor) -> Tensor:
    """softmax over each group of the spatial mean of F_coord = x * g_x * g_y: (N, G, 1, c).

    The mean of the product is taken as g_x' x g_y / HW, so that F_coord itself is never made.
    """
    rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
    gates = torch.sigmoid(mcam.coordinates(torch.cat([rows, columns], 2)))  # (N, C, H+W, 1)
    height, width = size_of(mcam, x)
    by_row, by_column = torch.split(gates, [height, width], 2)
    means = ((x @ by_column) * by_row).mean(2) / width  # (N, C, 1)
    return means.reshape(-1, mcam.groups, 1, mcam.channels // mcam.groups).softmax(3)


def gate_groups(mcam: MCAM | FoldedMCAM, x: Tensor, omega: Tensor) -> Tensor:
    """x (N, C, H, W) times omega (N, G, 1, HW), the same for all channels of a group."""
    channels, groups, (height, width) = mcam.channels, mcam.groups, size_of(mcam, x)
    y = x.reshape(-1, groups, channels // groups, height * width) * omega
    return y.reshape(-1, channels, height, width)


@torch.no_grad()
def _one_depthwise(mcam: MCAM) -> nn.Conv2d:
    """The kernels and biases of all scales in channel order, the smaller ones inside zeros."""
    channels, groups = mcam.channels, mcam.groups
    largest = KERNELS[-1]
    kernels, biases = [], []
    for n, scale in zip(mcam.split, mcam.scales, strict=True):
        assert isinstance(scale, nn.Conv2d) and scale.bias is not None
        margin = (largest - scale.kernel_size[0]) // 2
        padded = nn.functional.pad(scale.weight, [margin] * 4)
        kernels.append(padded.reshape(groups, n, 1, largest, largest))
        biases.append(scale.bias.reshape(groups, n))
    conv = nn.Conv2d(channels, channels, largest, 1, largest // 2, groups=channels)
    conv = conv.to(kernels[0].device)
    conv.weight.copy_(torch.cat(kernels, 1).reshape_as(conv.weight))
    assert conv.bias is not None
    conv.bias.copy_(torch.cat(biases, 1).flatten())
    return conv


@torch.no_grad()
def _mix_and_norm(mcam: MCAM) -> tuple[Tensor, Tensor]:
    """BN(mix(x)) = matrix x + offset per group: (G, c, c) and (G, c, 1)."""
    norm, groups = mcam.norm, mcam.groups
    c = mcam.channels // groups
    assert norm.running_var is not None and norm.running_mean is not None
    assert mcam.mix.bias is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    matrix = mcam.mix.weight.reshape(groups, c, c) * scale.reshape(groups, c, 1)
    offset = (mcam.mix.bias - norm.running_mean) * scale + norm.bias
    return matrix.clone(), offset.reshape(groups, c, 1).clone()
