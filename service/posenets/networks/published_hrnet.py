"""The names of HRNet's weights in published checkpoints -> the names in our HRNet.

mmpose writes `backbone.` and `keypoint_head.` (0.x) or `head.` (1.x) before them, HRNet's own code
nothing. b counts blocks, m modules, k branches; i is a fusion's output, j its input, s a step down:

    conv1, bn1; conv2, bn2                    stem.0.0, .1; stem.1.0, .1
    layer1.b.conv1..3, bn1..3                 stage1.b.body.0..2.0, .1
    layer1.0.downsample.0, .1                 stage1.0.shortcut.0, .1
    transition1.0.0, .1; transition1.1.0.0, .1        transition1.0.0, .1; transition1.1.0, .1
    transition2.2.0.0, .1; transition3.3.0.0, .1      transition2.0, .1; transition3.0, .1
    stageN.m.branches.k.b.conv1..2, bn1..2    stageN.m.branches.k.b.body.0..1.0, .1
    stageN.m.fuse_layers.i.j.0, .1 (up)       stageN.m.fusion.rows.i.j.0.0, .1
    stageN.m.fuse_layers.i.j.s.0, .1 (down)   stageN.m.fusion.rows.i.j.s.0, .1
    final_layer                               last
"""

import re
from collections.abc import Mapping

from torch import Tensor

_PREFIX = re.compile(r"^(module\.)?(backbone\.|keypoint_head\.|head\.)?")
_MARK = "transition1.1.0.0.weight"
"""Only a published HRNet calls a weight so."""
_RULES = tuple(
    (re.compile(pattern + r"(?=\.[a-z_]+$)"), ours)
    for pattern, ours in (
        (r"^(conv|bn)([12])", r"stem.\2.\1"),
        (r"^layer1\.(\d+)\.(conv|bn)([123])", r"stage1.\1.body.\3.\2"),
        (r"^layer1\.(\d+)\.downsample\.([01])", r"stage1.\1.shortcut.\2"),
        (r"^transition1\.0\.([01])", r"transition1.0.\1"),
        (r"^transition1\.1\.0\.([01])", r"transition1.1.\1"),
        (r"^transition2\.2\.0\.([01])", r"transition2.\1"),
        (r"^transition3\.3\.0\.([01])", r"transition3.\1"),
        (
            r"^(stage[234]\.\d+\.branches\.\d+\.\d+)\.(conv|bn)([12])",
            r"\1.body.\3.\2",
        ),
        (r"^(stage[234]\.\d+)\.fuse_layers\.(\d+\.\d+)\.([01])", r"\1.fusion.rows.\2.0.\3"),
        (r"^(stage[234]\.\d+)\.fuse_layers\.(\d+\.\d+\.\d+\.[01])", r"\1.fusion.rows.\2"),
        (r"^final_layer", "last"),
    )
)
_COUNTED = re.compile(r"\.(\d)\.(conv|bn)(?=\.)")
"""Their layers count from 1 and tell convolution from norm by name; ours count both from 0."""


def is_published(weights: Mapping[str, object]) -> bool:
    """Whether these are an HRNet's weights under published names."""
    return any(_PREFIX.sub("", name) == _MARK for name in weights)


def our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under our names; raises KeyError with a name that has none."""
    return {our_name(name): weight for name, weight in weights.items()}


def our_name(theirs: str) -> str:
    """One name; raises KeyError.

    >>> our_name("backbone.stage2.0.branches.1.3.bn2.running_mean")
    'stage2.0.branches.1.3.body.1.1.running_mean'
    """
    bare = _PREFIX.sub("", theirs)
    for pattern, ours in _RULES:
        if pattern.match(bare):
            return _COUNTED.sub(_count_from_zero, pattern.sub(ours, bare))
    raise KeyError(theirs)


def _count_from_zero(match: re.Match[str]) -> str:
    return f".{int(match[1]) - 1}.{0 if match[2] == 'conv' else 1}"
