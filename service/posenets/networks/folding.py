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
            fold_norms(layers, nn.ConvTranspose2d)
    return folded


@torch.no_grad()
def with_half_kernels(folded: nn.Module) -> nn.Module:
    """A folded network whose kernels a file of float16 weights holds exactly.

    BatchNorms go into the convolutions before them, then kernels and matrices are rounded.
    """
    for layers in folded.modules():
        if isinstance(layers, nn.Sequential):
            fold_norms(layers, nn.Conv2d)
    for value in (*folded.parameters(), *folded.buffers()):
        if value.is_floating_point() and value.ndim > 1:
            value.copy_(value.half())
    return folded


def fold_norms(layers: nn.Sequential, kind: type[nn.Conv2d | nn.ConvTranspose2d]) -> None:
    """Puts each BatchNorm that follows a convolution of this kind into it."""
    for index in range(len(layers) - 1):
        conv, norm = layers[index], layers[index + 1]
        if isinstance(conv, kind) and isinstance(norm, nn.BatchNorm2d):
            transposed = kind is nn.ConvTranspose2d
            assert not transposed or conv.groups == 1, "a grouped kernel's scales lie elsewhere"
            layers[index] = nn.utils.fusion.fuse_conv_bn_eval(conv, norm, transpose=transposed)
            layers[index + 1] = nn.Identity()


def drop_unread_branches(network: HighResolutionNet) -> None:
    """Keeps only the finest output of the last fusion, the one that the heatmaps are made from."""
    assert isinstance(network.stage4, nn.Sequential)
    module = network.stage4[-1]
    assert isinstance(module, Module)
    rows = module.fusion.rows
    assert isinstance(rows, nn.ModuleList)
    module.fusion.rows = rows[:1]
