"""MobileNetV2 1.0 (Sandler et al., CVPR 2018), up to its 1280-channel layer."""

from torch import Tensor, nn

from posenets.networks.blocks import ConvBN

CHANNELS_OUT = 1280
ROWS = (
    # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expand (none at expansion 1), depthwise 3x3, linear 1x1; identity where shapes allow."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and channels_in == channels_out
        middle = channels_in * expansion
        self.body = nn.Sequential(
            *([ConvBN(channels_in, middle, act=nn.ReLU6)] if expansion > 1 else []),
            ConvBN(middle, middle, 3, stride, groups=middle, act=nn.ReLU6),
            ConvBN(middle, channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Sequential):
    """(N, 3, H, W) -> (N, 1280, H/32, W/32)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [ConvBN(3, 32, 3, 2, act=nn.ReLU6)]
        channels = 32
        for expansion, out, blocks, first_stride in ROWS:
            for index in range(blocks):
                stride = first_stride if index == 0 else 1
                layers.append(InvertedResidual(channels, out, expansion, stride))
                channels = out
        super().__init__(*layers, ConvBN(channels, CHANNELS_OUT, act=nn.ReLU6))
