"""PoseFPN-Small: MobileNetV3-Small joined from coarse to fine; the fastest of ours on CPUs.

Not from a paper: the smallest network that learned well on little data.
"""

from typing import cast

from torch import Tensor, nn

from posenets.networks.mobilenetv3_small import TAP_CHANNELS, ConvNorm, MobileNetV3Small

WIDTH = 96


class PoseFPN(nn.Module):
    """(N, 3, H, W), RGB / 127.5 - 1 -> heatmaps (N, J, H/4, W/4), raw. 1.029 M parameters."""

    def __init__(self, joints: int = 17, width: int = WIDTH) -> None:
        super().__init__()
        self.backbone = MobileNetV3Small()
        self.top = ConvNorm(TAP_CHANNELS[3], width, act="hswish")
        self.lat = nn.ModuleList(ConvNorm(channels, width) for channels in TAP_CHANNELS[2::-1])
        self.mix = nn.ModuleList(
            nn.Sequential(
                nn.Hardswish(),
                ConvNorm(width, width, 5, groups=width),
                ConvNorm(width, width, act="hswish"),
            )
            for _ in range(3)
        )
        self.last = nn.Conv2d(width, joints, 1)
        nn.init.normal_(self.last.weight, std=0.001)
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.heatmaps(x, 4)

    def heatmaps(self, x: Tensor, stride: int) -> Tensor:
        """Heatmaps (N, J, H/stride, W/stride); 8 leaves the finest join out, to train the rest."""
        f4, f8, f16, f32 = self.backbone.features(x)
        x = self.top(f32)  # (N, 96, H/32, W/32)
        for joined, tap, lateral, mix in zip(
            (16, 8, 4), (f16, f8, f4), self.lat, self.mix, strict=True
        ):
            up = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = mix(up + lateral(tap))  # (N, 96, H/16, ..) then H/8, H/4
            if joined == stride:
                break
        return cast(Tensor, self.last(x))  # (N, J, H/stride, W/stride)
