"""A small anchor-free person detector: MobileNetV3-Small, a light feature pyramid, one shared head.

One class, three levels (strides 8, 16, 32), a score and four distances to the box sides at each
point, as in FCOS (Tian et al., ICCV 2019). Boxes are decoded inside the graph, in input pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from posenets.networks.mobilenetv3_small import ConvNorm, MobileNetV3Small

STRIDES = (8, 16, 32)
WIDTH = 64
_PRIOR = 0.01
_DEEP_CHANNELS = 96


def points_of(size_wh: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centres (A, 2) of all points in input pixels, and the stride (A,) of each.

    Point i of a stride-s level sits on pixel s * i + (s - 1) / 2, the middle of the s pixels it
    stands for.
    """
    centres, strides = [], []
    for stride in STRIDES:
        xs = torch.arange(size_wh[0] // stride) * float(stride) + (stride - 1) / 2
        ys = torch.arange(size_wh[1] // stride) * float(stride) + (stride - 1) / 2
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        centres.append(torch.stack([grid_x, grid_y], -1).reshape(-1, 2))
        strides.append(torch.full((len(xs) * len(ys),), float(stride)))
    return torch.cat(centres), torch.cat(strides)


class PersonDetector(nn.Module):
    """(N, 3, H, W), RGB normalised by ImageNet's statistics -> logits (N, A), boxes (N, A, 4).

    Boxes are xyxy in input pixels; H and W are multiples of 32.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.backbone = MobileNetV3Small()
        del self.backbone[12]
        self.lateral = nn.ModuleList(ConvNorm(c, width) for c in (24, 48, _DEEP_CHANNELS))
        self.down_mix = nn.ModuleList(_mix(width) for _ in range(2))
        self.up_step = nn.ModuleList(
            nn.Sequential(ConvNorm(width, width, 5, 2, groups=width), ConvNorm(width, width))
            for _ in range(2)
        )
        self.up_mix = nn.ModuleList(_mix(width) for _ in range(2))
        self.tower = nn.Sequential(_mix(width), _mix(width))
        self.score = nn.Conv2d(width, 1, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        self.level_scale = nn.Parameter(torch.ones(len(STRIDES)))
        for conv in (self.score, self.sides):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        assert self.score.bias is not None
        assert self.sides.bias is not None
        nn.init.constant_(self.score.bias, -math.log((1 - _PRIOR) / _PRIOR))
        nn.init.constant_(self.sides.bias, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        centres, strides = points_of((x.shape[3], x.shape[2]))
        f8, f16, f32 = self._backbone_features(x)
        p32 = self.lateral[2](f32)  # (N, 64, H/32, W/32)
        p16 = self.down_mix[0](self.lateral[1](f16) + _double(p32))  # (N, 64, H/16, W/16)
        p8 = self.down_mix[1](self.lateral[0](f8) + _double(p16))  # (N, 64, H/8, W/8)
        p16 = self.up_mix[0](p16 + self.up_step[0](p8))
        p32 = self.up_mix[1](p32 + self.up_step[1](p16))
        logits, sides = self._head((p8, p16, p32))
        reach = sides * strides.to(x)[None, :, None]
        centres = centres.to(x)
        return logits, torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], -1)

    def _backbone_features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        taps = {}
        for index, layer in enumerate(self.backbone):
            x = layer(x)
            taps[index] = x
        return taps[3], taps[8], taps[11]

    def _head(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits, sides = [], []
        for index, level in enumerate(levels):
            shared = self.tower(level)
            logits.append(self.score(shared).flatten(1))  # (N, h*w)
            distances = nn.functional.softplus(self.sides(shared) * self.level_scale[index])
            sides.append(distances.flatten(2).transpose(1, 2))  # (N, h*w, 4)
        return torch.cat(logits, 1), torch.cat(sides, 1)


class DetectorExport(nn.Module):
    """The detector as it is served: boxes (N, A, 4) and scores (N, A) in [0, 1].

    Scores are sigmoid(slope * logit + shift); see `posenets.evaluation.calibrate`.
    """

    def __init__(self, detector: PersonDetector, slope: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.detector = detector
        self.slope = slope
        self.shift = shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, boxes = self.detector(x)
        return boxes, (logits * self.slope + self.shift).sigmoid()


def _mix(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Hardswish(),
        ConvNorm(width, width, 5, groups=width),
        ConvNorm(width, width, act="hswish"),
    )


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
