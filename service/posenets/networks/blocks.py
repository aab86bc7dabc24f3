"""The layers that several networks share; every block takes channels and keeps (N, C, H, W)."""

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class ConvBN(nn.Sequential):
    """k x k convolution without bias, BatchNorm, and the activation if there is one."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        act: Activation | None = None,
    ) -> None:
        layers = [
            nn.Conv2d(
                channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
            ),
            nn.BatchNorm2d(channels_out),
        ]
        super().__init__(*layers, *([act()] if act else []))


class SqueezeExcite(nn.Module):
    """x * gate(W2 relu(W1 mean(x))), both layers with bias (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, hidden: int, gate: Activation = nn.Sigmoid) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            gate(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.weigh(x)  # (N, C, 1, 1)
        return x * weights


class ChannelShuffle(nn.Module):
    """Interleaves the two halves of the channels, by one transposition with a free batch."""

    def __init__(self, channels: int, size_hw: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (channels, *size_hw)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = self.shape
        x = x.reshape(-1, 2, channels // 2, height * width).transpose(1, 2)
        return x.reshape(-1, channels, height, width)


def initialise(network: nn.Module, *, last: nn.Conv2d) -> None:
    """He initialisation everywhere; the heatmap layer starts near zero (std 0.001)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(last.weight, std=0.001)
