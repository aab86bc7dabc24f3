"""A trained network -> the same function with less to compute, for export."""

import copy

import torch
from torch import nn

from posenets.networks.high_resolution import HighResolutionNet, Module
from posenets.networks.litedeconv import LiteDeconvPose
from posenets.networks.litedeconv_folding import FoldedLiteDeconv
from posenets.networks.mcam import MCAM
from posenets.networks.nam import NamChannel


def fold_for_export(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode: attention constants folded, branches nobody reads dropped.

    BatchNorm after a convolution stays: the exporter folds it, but not after a transposed one.
    """
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NamChannel | MCAM):
                setattr(parent, name, child.folded())
    if isinstance(folded, HighResolutionNet):
        drop_unread_branches(folded)
    if isinstance(folded, LiteDeconvPose):
        return FoldedLiteDeconv(folded)
    for layers in folded.modules():
        if isinstance(layers, nn.Sequential):
            fold_transposed(layers)
    return folded


@torch.no_grad()
def with_half_kernels(folded: nn.Module) -> nn.Module:
    """A folded network whose kernels a file of float16 weights holds exactly.

    BatchNorms go into the convolutions before them, then kernels and matrices are rounded.
    """
    for layers in folded.modules():
        if isinstance(layers, nn.Sequential):
            _fold_norms(layers)
    for value in (*folded.parameters(), *folded.buffers()):
        if value.is_floating_point() and value.ndim > 1:
            value.copy_(value.half())
    return folded


def _fold_norms(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        conv, norm = layers[index], layers[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[index] = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
            layers[index + 1] = nn.Identity()


def fold_transposed(layers: nn.Sequential) -> None:
    """Puts each BatchNorm that follows a full transposed convolution into it."""
    for index in range(len(layers) - 1):
        conv, norm = layers[index], layers[index + 1]
        if isinstance(conv, nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
            assert conv.groups == 1, "the scales of a grouped kernel lie elsewhere"
            layers[index] = nn.utils.fusion.fuse_conv_bn_eval(conv, norm, transpose=True)
            layers[index + 1] = nn.Identity()


def drop_unread_branches(network: HighResolutionNet) -> None:
    """Keeps only the finest output of the last fusion, the one that the heatmaps are made from."""
    assert isinstance(network.stage4, nn.Sequential)
    module = network.stage4[-1]
    assert isinstance(module, Module)
    rows = module.fusion.rows
    assert isinstance(rows, nn.ModuleList)
    module.fusion.rows = rows[:1]
