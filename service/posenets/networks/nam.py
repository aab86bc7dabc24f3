"""NAM-C, the normalisation-based channel attention of GoatPose (Liu et al., 2021)."""

import torch
from torch import Tensor, nn


class NamChannel(nn.Module):
    """x * sigmoid(w_c BN(x)_c), where w_c = |gamma_c| / sum |gamma| from its own BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self._weights() * self.norm(x))

    def folded(self) -> "FoldedNamChannel":
        """The same function, with w multiplied into the BatchNorm; for evaluation only."""
        channels = self.norm.num_features
        norm = nn.BatchNorm2d(channels).to(self.norm.weight.device)
        norm.load_state_dict(self.norm.state_dict())
        with torch.no_grad():
            weights = self._weights().flatten()
            norm.weight.mul_(weights)
            norm.bias.mul_(weights)
        return FoldedNamChannel(norm.eval())

    def _weights(self) -> Tensor:
        gamma = self.norm.weight.abs()
        # A sparsity penalty may drive all scales to zero; the gate is then 1/2 everywhere.
        return (gamma / gamma.sum().clamp_min(1e-12)).reshape(1, -1, 1, 1)


class FoldedNamChannel(nn.Module):
    """x * sigmoid(norm(x)): what is left of NAM-C at inference."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.norm(x))


def nam_scales(network: nn.Module) -> list[Tensor]:
    """The BatchNorm scales that the sparsity penalty p * sum |gamma| is taken over."""
    return [m.norm.weight for m in network.modules() if isinstance(m, NamChannel)]
