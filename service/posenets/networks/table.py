"""Name -> network: how it is built, at which input, and what its paper says about its size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from posenets.networks.litedeconv import LiteDeconvNumbers, LiteDeconvPose, litedeconv_small
from posenets.networks.posefpn import PoseFPN

Convention = Literal["A", "B", "B+2BN", "M"]
"""How operations are counted; see `posenets.counting`."""

SizeWH = tuple[int, int]
LOW, HIGH, SQUARE = (192, 256), (288, 384), (256, 256)
"""Input width and height: "256x192", "384x288" and "256x256" in the papers."""


@dataclass(frozen=True, slots=True)
class Network:
    """`constructor(joints, size_wh)`; sizes in input pixels; `paper_gflops` in `convention`."""

    constructor: Callable[[int, SizeWH], nn.Module]
    size_wh: SizeWH
    convention: Convention
    paper_params: float | None = None
    paper_gflops: float | None = None
    joints: int = 17

    def build(self, joints: int | None = None, size_wh: SizeWH | None = None) -> nn.Module:
        """A new network with random weights; the table's joints and input unless told."""
        return self.constructor(joints or self.joints, size_wh or self.size_wh)


def _litedeconv(numbers: LiteDeconvNumbers) -> Callable[[int, SizeWH], nn.Module]:
    return lambda joints, _: LiteDeconvPose(joints, numbers)


NETWORKS: dict[str, Network] = {
    # Our own default.
    "posefpn-small": Network(lambda joints, _: PoseFPN(joints), LOW, "A"),
    # The heatmap-weighting-loss paper.
    "litedeconv": Network(_litedeconv(LiteDeconvNumbers()), LOW, "M", 3.1e6, 0.58),
    "litedeconv-384x288": Network(_litedeconv(LiteDeconvNumbers()), HIGH, "M", 3.1e6, 1.30),
    "litedeconv-mpii": Network(
        _litedeconv(LiteDeconvNumbers()), SQUARE, "M", 3.1e6, 0.77, joints=16
    ),
    "litedeconv-none": Network(_litedeconv(LiteDeconvNumbers(attention="none")), LOW, "M"),
    "litedeconv-se": Network(_litedeconv(LiteDeconvNumbers(attention="se")), LOW, "M"),
    "litedeconv-cbam": Network(_litedeconv(LiteDeconvNumbers(attention="cbam")), LOW, "M"),
    "litedeconv-small": Network(lambda joints, _: litedeconv_small(joints), LOW, "M"),
}


def build_network(name: str, joints: int | None = None, size_wh: SizeWH | None = None) -> nn.Module:
    """Builds the network called `name`."""
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name].build(joints, size_wh)
