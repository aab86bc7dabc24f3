"""Random normalisation for networks that were not trained."""

import torch
from torch import nn


def randomise_norms(network: nn.Module) -> None:
    """Random small scales, random shifts, statistics near those of the activations.

    A trained network is well conditioned and this keeps the random one so: with scales around 1
    float32 alone is 2e-4 of the range away from float64 in GoatPose, with these 1e-6.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.1, 0.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))
        network.eval()
        for norm in norms:
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_var.clamp_(min=1e-2)
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn(norm.num_features)
            norm.running_var *= torch.empty(norm.num_features).uniform_(0.8, 1.25)
