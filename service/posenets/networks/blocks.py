"""The layers that several networks share; every block takes channels and keeps (N, C, H, W)."""

from collections.abc import Callable
from typing import cast

import torch
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
    """Interleaves the two halves of the channels, as one gather that needs no other size."""

    order: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        order = torch.arange(channels).reshape(2, channels // 2).T.flatten()
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.order)


class Residual(nn.Module):
    """ReLU(body(x) + shortcut(x)); the shortcut is the identity unless given."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


class LiteConv(nn.Module):
    """Half the outputs by a k x k convolution, the other half from them by a depthwise 3x3.

    The convolution of GoatPose, and with k = 1 the Ghost module (Han et al., CVPR 2020). Without
    `act` both halves are linear, so that a residual sum stays linear.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        *,
        act: Activation | None = None,
    ) -> None:
        super().__init__()
        assert channels_out % 2 == 0, f"{channels_out} channels have no half"
        half = channels_out // 2
        self.intrinsic = ConvBN(channels_in, half, kernel, act=act)
        self.ghost = ConvBN(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        u = self.intrinsic(x)  # (N, D/2, H, W)
        return torch.cat([u, self.ghost(u)], 1)  # (N, D, H, W)


def basic_block(channels: int) -> Residual:
    """Two 3x3 convolutions around an identity."""
    return Residual(
        nn.Sequential(
            ConvBN(channels, channels, 3, act=nn.ReLU),
            ConvBN(channels, channels, 3),
        )
    )


def lite_basic_block(channels: int) -> Residual:
    """The basic block, both 3x3 convolutions LiteConvs."""
    return Residual(
        nn.Sequential(LiteConv(channels, channels, 3, act=nn.ReLU), LiteConv(channels, channels, 3))
    )


def bottleneck(channels_in: int, planes: int, stride: int = 1) -> Residual:
    """1x1, 3x3 of `stride`, 1x1 to four times `planes`; a projection where the widths differ."""
    return Residual(
        nn.Sequential(
            ConvBN(channels_in, planes, act=nn.ReLU),
            ConvBN(planes, planes, 3, stride, act=nn.ReLU),
            ConvBN(planes, 4 * planes),
        ),
        projection(channels_in, 4 * planes, stride),
    )


def projection(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module | None:
    """The plain 1x1 shortcut of a bottleneck, none where the widths agree."""
    if channels_in == channels_out:
        return None
    return ConvBN(channels_in, channels_out, 1, stride)


def weaken_residuals(network: nn.Module, gain: float) -> None:
    """Begin every residual branch at `gain` times its scale, so that the network begins shallow.

    At full scale the gradient of a hundred layers of random weights is quite another after the
    least change, and they learn slowly; `benchmarks/residual_start.py` shows both. Goyal et al.,
    2017, begin with 0.
    """
    for block in network.modules():
        if isinstance(block, Residual):
            for norm in _last_norms(block.body):
                nn.init.constant_(norm.weight, gain)


def _last_norms(body: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorms that scale what a residual branch gives, before any attention on it."""
    lite = [layer for layer in body.modules() if isinstance(layer, LiteConv)]
    plain = [layer for layer in body.modules() if isinstance(layer, ConvBN)]
    last = [lite[-1].intrinsic, lite[-1].ghost] if lite else plain[-1:]
    return [cast(nn.BatchNorm2d, layer[1]) for layer in last]


def initialise(network: nn.Module, *, last: nn.Conv2d) -> None:
    """He initialisation everywhere; the heatmap layer starts near zero (std 0.001)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(last.weight, std=0.001)
