"""MobileNetV3 (Howard et al., ICCV 2019) in the layouts that LiteDeconvPose was published with.

They are not torchvision's: rows 13 and 14 of the large one differ (stride and width), the
squeeze-excite width is expand/4 without rounding, and every row expands by a 1x1.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from posenets.networks.blocks import Activation, ConvBN, SqueezeExcite


@dataclass(frozen=True, slots=True)
class Row:
    """One inverted residual: kernel, expanded and output channels, squeeze-excite, act, stride."""

    kernel: int
    expand: int
    out: int
    squeeze: bool
    act: Activation
    stride: int


@dataclass(frozen=True, slots=True)
class MobileNetV3Numbers:
    rows: tuple[Row, ...]
    channels_out: int
    stem: int = 16
    project_act: bool = False
    """An activation after the projection too, as in the authors' base library."""


LARGE = MobileNetV3Numbers(
    rows=(
        Row(3, 16, 16, False, nn.ReLU, 1),
        Row(3, 64, 24, False, nn.ReLU, 2),
        Row(3, 72, 24, False, nn.ReLU, 1),
        Row(5, 72, 40, True, nn.ReLU, 2),
        Row(5, 120, 40, True, nn.ReLU, 1),
        Row(5, 120, 40, True, nn.ReLU, 1),
        Row(3, 240, 80, False, nn.Hardswish, 2),
        Row(3, 200, 80, False, nn.Hardswish, 1),
        Row(3, 184, 80, False, nn.Hardswish, 1),
        Row(3, 184, 80, False, nn.Hardswish, 1),
        Row(3, 480, 112, True, nn.Hardswish, 1),
        Row(3, 672, 112, True, nn.Hardswish, 1),
        Row(5, 672, 160, True, nn.Hardswish, 1),
        Row(5, 672, 160, True, nn.Hardswish, 2),
        Row(5, 960, 160, True, nn.Hardswish, 1),
    ),
    channels_out=960,
)

SMALL = MobileNetV3Numbers(
    rows=(
        Row(3, 16, 16, True, nn.ReLU, 2),
        Row(3, 72, 24, False, nn.ReLU, 2),
        Row(3, 88, 24, False, nn.ReLU, 1),
        Row(5, 96, 40, True, nn.Hardswish, 2),
        Row(5, 240, 40, True, nn.Hardswish, 1),
        Row(5, 240, 40, True, nn.Hardswish, 1),
        Row(5, 120, 48, True, nn.Hardswish, 1),
        Row(5, 144, 48, True, nn.Hardswish, 1),
        Row(5, 288, 96, True, nn.Hardswish, 2),
        Row(5, 576, 96, True, nn.Hardswish, 1),
        Row(5, 576, 96, True, nn.Hardswish, 1),
    ),
    channels_out=576,
)


class InvertedResidual(nn.Module):
    """1x1 expand, depthwise k x k, squeeze-excite, 1x1 project; identity where shapes allow."""

    def __init__(self, channels_in: int, row: Row, project_act: bool) -> None:
        super().__init__()
        self.residual = row.stride == 1 and channels_in == row.out
        self.expand = ConvBN(channels_in, row.expand, act=row.act)
        self.depthwise = ConvBN(
            row.expand, row.expand, row.kernel, row.stride, groups=row.expand, act=row.act
        )
        self.squeeze = (
            SqueezeExcite(row.expand, row.expand // 4, nn.Hardsigmoid)
            if row.squeeze
            else nn.Identity()
        )
        self.project = ConvBN(row.expand, row.out, act=row.act if project_act else None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class MobileNetV3(nn.Sequential):
    """(N, 3, H, W) -> (N, channels_out, H/32, W/32)."""

    def __init__(self, numbers: MobileNetV3Numbers) -> None:
        layers: list[nn.Module] = [ConvBN(3, numbers.stem, 3, 2, act=nn.Hardswish)]
        channels = numbers.stem
        for row in numbers.rows:
            layers.append(InvertedResidual(channels, row, numbers.project_act))
            channels = row.out
        layers.append(ConvBN(channels, numbers.channels_out, act=nn.Hardswish))
        super().__init__(*layers)
