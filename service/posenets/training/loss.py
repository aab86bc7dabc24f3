"""Heatmap losses.

The heatmap-weighting loss is equation 8 of "Lightweight human pose estimation using
heatmap-weighting loss" (Li et al., 2022), with the norm squared as in the authors' code.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WEIGHT_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": torch.zeros_like,
    "x": lambda g: g,
    "2x": lambda g: 2 * g,
    "x2": torch.square,
    "exp": torch.exp,
}
"""F of equation 8; `none` gives the plain mean squared error."""


def heatmap_weighting_loss(
    predicted: Tensor, target: Tensor, weights: Tensor, weighting: str = "x"
) -> Tensor:
    """Mean of (F(G) + 1) (v P - v G)^2.

    `predicted`, `target` (N, J, h, w); `weights` v (N, J) in [0, 1]. F is evaluated on the
    unmasked target.
    """
    emphasis = WEIGHT_FUNCTIONS[weighting](target) + 1
    return (emphasis * (weights[:, :, None, None] * (predicted - target)).square()).mean()


def distillation_loss(predicted: Tensor, teacher: Tensor, seen: Tensor) -> Tensor:
    """Heatmap-weighted squared distance to the teacher's maps where the teacher could look.

    `predicted`, `teacher` (N, J, h, w); `seen` (N, 1, h, w) in {0, 1} (Hinton et al., 2015; for
    heatmaps Zhang et al., "Fast human pose estimation", CVPR 2019).
    """
    return ((teacher + 1) * seen * (predicted - teacher).square()).mean()


_SHARPNESS = 10.0
"""Of the softmax that makes a heatmap a distribution: it turns 0..1 into weights of 1..e^10."""


def localisation_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """KL divergence of the two maps read as distributions of where the joint is.

    Both maps are sharpened by the same softmax, so a perfect heatmap costs nothing; unlike the
    squared error it still pulls when the predicted map is flat (distribution matching: Qu et al.,
    NeurIPS 2022). `predicted`, `target` (N, J, h, w); `weights` (N, J) in [0, 1].
    """
    ours = (_SHARPNESS * predicted).flatten(2).log_softmax(-1)
    theirs = (_SHARPNESS * target).flatten(2).log_softmax(-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    return (weights * divergence).mean()
