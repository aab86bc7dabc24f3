"""Name -> network: how it is built, at which input, and what its paper says about its size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import nn

from posenets.networks import gadnet as gadnets
from posenets.networks import goatpose as goatposes
from posenets.networks import hrnet as hrnets
from posenets.networks import le_hrnet as le_hrnets
from posenets.networks import lite_hrnet as lite_hrnets
from posenets.networks.gadnet import gadnet, ghost_hrnet, ghost_se_hrnet
from posenets.networks.goatpose import goatpose
from posenets.networks.hrnet import hrnet
from posenets.networks.le_hrnet import LEHRNetNumbers, le_hrnet
from posenets.networks.lite_hrnet import LiteHRNet
from posenets.networks.litedeconv import LiteDeconvNumbers, LiteDeconvPose, litedeconv_small
from posenets.networks.posefpn import PoseFPN
from posenets.networks.simple_baseline import (
    simple_mobilenetv2,
    simple_mobilenetv3,
    simple_resnet50,
    simple_shufflenetv2,
)

Convention = Literal["A", "B", "B+2BN", "M"]
"""How operations are counted; see `posenets.counting`."""

SizeWH = tuple[int, int]
Numbers = TypeVar("Numbers")
Constructor = Callable[[int, SizeWH], nn.Module]
"""(joints, input size) -> network with random weights."""
LOW, HIGH, SQUARE = (192, 256), (288, 384), (256, 256)
"""Input width and height: "256x192", "384x288" and "256x256" in the papers."""


@dataclass(frozen=True, slots=True)
class Network:
    """`constructor(joints, size_wh)`; sizes in input pixels; `paper_gflops` in `convention`."""

    constructor: Constructor
    size_wh: SizeWH
    convention: Convention
    paper_params: float | None = None
    paper_gflops: float | None = None
    joints: int = 17

    def build(self, joints: int | None = None, size_wh: SizeWH | None = None) -> nn.Module:
        """A new network with random weights; the table's joints and input unless told."""
        return self.constructor(joints or self.joints, size_wh or self.size_wh)


def _of(constructor: Callable[[int, Numbers], nn.Module], numbers: Numbers) -> Constructor:
    return lambda joints, _: constructor(joints, numbers)


def _le_hrnet(numbers: LEHRNetNumbers) -> Constructor:
    return lambda joints, size_wh: le_hrnet(joints, size_wh, numbers)


def _any_size(constructor: Callable[[int], nn.Module]) -> Constructor:
    return lambda joints, _: constructor(joints)


LITEDECONV = _of(LiteDeconvPose, LiteDeconvNumbers())

NETWORKS: dict[str, Network] = {
    # Our own small network for CPUs.
    "posefpn-small": Network(_any_size(PoseFPN), LOW, "A"),
    # HRNet.
    "hrnet-w32": Network(_of(hrnet, hrnets.W32), LOW, "B", 28.5e6, 7.1),
    "hrnet-w32-384x288": Network(_of(hrnet, hrnets.W32), HIGH, "B", 28.5e6, 16.0),
    "hrnet-w48": Network(_of(hrnet, hrnets.W48), LOW, "B", 63.6e6, 14.6),
    "hrnet-w48-384x288": Network(_of(hrnet, hrnets.W48), HIGH, "B", 63.6e6, 32.9),
    "hrnet-w16-small": Network(_of(hrnet, hrnets.SMALL_W16), LOW, "B+2BN", 1.3e6, 0.54),
    "hrnet-w16-small-384x288": Network(_of(hrnet, hrnets.SMALL_W16), HIGH, "B+2BN", 1.3e6, 1.21),
    # GoatPose and its ablation. The paper's row of NAM-HRNet repeats GoatPose-XL: no target.
    "goatpose-bl": Network(_of(goatpose, goatposes.B), LOW, "B", 15.51e6, 3.48),
    "goatpose-bh": Network(_of(goatpose, goatposes.B), HIGH, "B", 15.51e6, 7.84),
    "goatpose-xl": Network(_of(goatpose, goatposes.X), LOW, "B", 34.76e6, 7.81),
    "goatpose-xh": Network(_of(goatpose, goatposes.X), HIGH, "B", 34.76e6, 17.53),
    "nam-hrnet": Network(_of(hrnet, hrnets.NAM_W32), LOW, "B"),
    # GADNet and its ablations.
    "gadnet-w32": Network(_of(gadnet, gadnets.W32), LOW, "B", 11.2e6, 2.75),
    "gadnet-w48": Network(_of(gadnet, gadnets.W48), LOW, "B"),
    "gadnet-ablation-ghost": Network(_any_size(ghost_hrnet), LOW, "B"),
    "gadnet-ablation-ghost-se": Network(_any_size(ghost_se_hrnet), LOW, "B"),
    # The heatmap-weighting-loss paper, its ablations and its rivals.
    "litedeconv": Network(LITEDECONV, LOW, "M", 3.1e6, 0.58),
    "litedeconv-384x288": Network(LITEDECONV, HIGH, "M", 3.1e6, 1.30),
    "litedeconv-mpii": Network(LITEDECONV, SQUARE, "M", 3.1e6, 0.77, joints=16),
    "litedeconv-none": Network(_of(LiteDeconvPose, LiteDeconvNumbers(attention="none")), LOW, "M"),
    "litedeconv-se": Network(_of(LiteDeconvPose, LiteDeconvNumbers(attention="se")), LOW, "M"),
    "litedeconv-cbam": Network(_of(LiteDeconvPose, LiteDeconvNumbers(attention="cbam")), LOW, "M"),
    "litedeconv-small": Network(_any_size(litedeconv_small), LOW, "M"),
    "simple-mobilenetv3": Network(_any_size(simple_mobilenetv3), LOW, "M", 8.7e6, 1.47),
    "simple-mobilenetv2": Network(_any_size(simple_mobilenetv2), LOW, "M", 9.6e6, 1.59),
    "simple-mobilenetv2-384x288": Network(_any_size(simple_mobilenetv2), HIGH, "M", 9.6e6, 3.57),
    "simple-shufflenetv2": Network(_any_size(simple_shufflenetv2), LOW, "M", 7.6e6, 1.37),
    "simple-shufflenetv2-384x288": Network(_any_size(simple_shufflenetv2), HIGH, "M", 7.6e6, 3.08),
    # mmpose's figure; the original paper's 8.9 counts deconvolutions at their outputs.
    "simple-resnet50": Network(_any_size(simple_resnet50), LOW, "M", 34.0e6, 5.46),
    # LE-HRNet and its ablations.
    "le-hrnet": Network(_le_hrnet(le_hrnets.FULL), LOW, "A", 5.4e6, 1.51),
    "le-hrnet-no-cmffm": Network(_le_hrnet(le_hrnets.NO_CMFFM), LOW, "A", 6.7e6),
    "le-hrnet-no-mcam-no-cmffm": Network(_le_hrnet(le_hrnets.PLAIN), LOW, "A", 5.3e6),
    # The rival that the papers are measured against.
    "lite-hrnet-18": Network(_of(LiteHRNet, lite_hrnets.LITE_18), LOW, "A", 1.1e6, 0.20),
    "lite-hrnet-30": Network(_of(LiteHRNet, lite_hrnets.LITE_30), LOW, "A", 1.8e6, 0.31),
}


JOINT_WEIGHTS = ("last.weight", "last.bias")
"""What of every network goes by the number of joints."""


def find_network(name: str) -> Network:
    """The network called `name`; raises ValueError."""
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def build_network(name: str, joints: int | None = None, size_wh: SizeWH | None = None) -> nn.Module:
    """Builds the network called `name`."""
    return find_network(name).build(joints, size_wh)
