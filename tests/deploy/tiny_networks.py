"""One network of each family of the table, with the same layers, fewer and narrower."""

from collections.abc import Callable

import pytest
from torch import nn

from posenets.networks import build_network, mobilenetv2, mobilenetv3, shufflenetv2, simple_baseline
from posenets.networks.gadnet import GADNetNumbers, gadnet
from posenets.networks.goatpose import GoatPoseNumbers, goatpose
from posenets.networks.hrnet import HRNetNumbers, hrnet
from posenets.networks.le_hrnet import LEHRNetNumbers, le_hrnet
from posenets.networks.lite_hrnet import LiteHRNet, LiteHRNetNumbers
from posenets.networks.person_detector import DetectorExport, PersonDetector
from posenets.networks.simple_baseline import ResNet50, SimpleBaseline
from posenets.networks.table import Constructor

SIZE = 64
"""Width and height of the input, pixels."""
JOINTS = 17
DETECTOR = "person-detector"

_SMALL = {"width": 8, "modules": (1, 1, 1)}
_NARROW = 16
_STAGES = ((8, 1), (16, 1), (32, 1), (64, 1))


def _simple(backbone: Callable[[], nn.Module], channels: int) -> nn.Module:
    """SimpleBaseline with narrow transposed convolutions, and few bottlenecks where it has any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simple_baseline, "WIDTH", _NARROW)
        patch.setattr(simple_baseline, "RESNET50_STAGES", _STAGES)
        return SimpleBaseline(backbone(), channels, JOINTS)


TINY: dict[str, Constructor] = {
    "hrnet": lambda j, s: hrnet(j, HRNetNumbers(**_SMALL, planes=8, bottlenecks=1, blocks=1)),
    "goatpose": lambda j, s: goatpose(j, GoatPoseNumbers(**_SMALL, bottlenecks=2, blocks=1)),
    "nam-hrnet": lambda j, s: hrnet(
        j, HRNetNumbers(**_SMALL, planes=8, bottlenecks=1, blocks=1, nam=True)
    ),
    "gadnet": lambda j, s: gadnet(
        j, GADNetNumbers(**_SMALL, planes=8, bottlenecks=2, blocks=(1, 1, 2, 2))
    ),
    "le-hrnet": lambda j, s: le_hrnet(
        j, s, LEHRNetNumbers(width=32, planes=16, bottlenecks=1, modules=(1, 1, 1), blocks=1)
    ),
    "lite-hrnet": lambda j, s: LiteHRNet(j, LiteHRNetNumbers(modules=(1, 1, 1), blocks=1)),
}
"""Constructors as in the table, of networks that are large there."""
_OTHERS: dict[str, Callable[[], nn.Module]] = {
    "posefpn": lambda: build_network("posefpn-small"),
    "hrnet-small": lambda: build_network("hrnet-w16-small"),
    "litedeconv": lambda: build_network("litedeconv"),
    "simple-mobilenetv2": lambda: _simple(mobilenetv2.MobileNetV2, mobilenetv2.CHANNELS_OUT),
    "simple-mobilenetv3": lambda: _simple(
        lambda: mobilenetv3.MobileNetV3(mobilenetv3.LARGE), mobilenetv3.LARGE.channels_out
    ),
    "simple-shufflenetv2": lambda: _simple(shufflenetv2.ShuffleNetV2, shufflenetv2.CHANNELS_OUT),
    "simple-resnet50": lambda: _simple(ResNet50, 4 * _STAGES[-1][0]),
}
FAMILIES = (*TINY, *_OTHERS, DETECTOR)


def tiny_network(family: str) -> nn.Module:
    """Random weights, (n, 3, 64, 64) to heatmaps, or to boxes and scores; not folded yet."""
    if family == DETECTOR:
        return DetectorExport(PersonDetector())
    return TINY[family](JOINTS, (SIZE, SIZE)) if family in TINY else _OTHERS[family]()
