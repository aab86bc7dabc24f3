"""MCAM, the multi-scale coordinate attention of LE-HRNet, with all sizes fixed at construction."""

import torch
from torch import Tensor, nn

GROUPS = 8
KERNELS = (3, 5, 7)


class MCAM(nn.Module):
    """X * omega per group of c = C/8 channels; (N, C, H, W) -> (N, C, H, W).

    The groups share no weights, so every layer is a grouped convolution. Where channels of a group
    part ways (3x3, 5x5, 7x7), a view (N, 8, c, H, W) keeps the groups in order.
    """

    def __init__(self, channels: int, size_hw: tuple[int, int], groups: int = GROUPS) -> None:
        super().__init__()
        self.channels, self.groups, self.size_hw = channels, groups, size_hw
        c = channels // groups
        self.split = (c - 2 * (c // 3), c // 3, c // 3)
        self.coordinates = nn.Conv2d(channels, channels, 1, groups=groups)
        self.scales = nn.ModuleList(
            nn.Conv2d(groups * n, groups * n, kernel, 1, kernel // 2, groups=groups * n)
            for n, kernel in zip(self.split, KERNELS, strict=True)
        )
        self.mix = nn.Conv2d(channels, channels, 1, groups=groups)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        groups, c, (height, width) = self.groups, self.channels // self.groups, self.size_hw
        parts = x.reshape(-1, groups, c, height, width).split(self.split, 2)
        parts = [
            scale(part.reshape(-1, groups * n, height, width)).reshape(-1, groups, n, height, width)
            for part, n, scale in zip(parts, self.split, self.scales, strict=True)
        ]
        multi = self.norm(self.mix(torch.cat(parts, 2).reshape(-1, self.channels, height, width)))
        attention = self._coordinate(x).mean((2, 3)).reshape(-1, groups, 1, c).softmax(3)
        omega = torch.sigmoid(attention @ multi.reshape(-1, groups, c, height * width))
        y = x.reshape(-1, groups, c, height * width) * omega  # (N, 8, c, HW) * (N, 8, 1, HW)
        return y.reshape(-1, self.channels, height, width)

    def _coordinate(self, x: Tensor) -> Tensor:
        """F_coord: x gated by row and by column."""
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        gates = torch.sigmoid(self.coordinates(torch.cat([rows, columns], 2)))  # (N, C, H+W, 1)
        by_row, by_column = gates.split(self.size_hw, 2)
        return x * by_row * by_column.transpose(2, 3)
