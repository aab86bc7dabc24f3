"""Parameters and operations of every network, in the counting convention of each paper.

One multiply-accumulate (MAC) is one "FLOP" in all these papers. Conventions:
  A       MACs of convolutions, transposed convolutions and linear layers / 10^9
  B       the same MACs / 2^30
  B+2BN   (MACs + two per BatchNorm output element) / 2^30
  M       / 10^9, with one per bias-added output element, two per BatchNorm output element, one per
          ReLU or ReLU6 output element and one per pooled input element (the mmcv counter)
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from posenets.networks import NETWORKS, Convention
from posenets.progress import shown


@dataclass(frozen=True, slots=True)
class Operations:
    """What one picture costs, by kind of layer; elements, not bytes."""

    macs: int = 0
    bias_outputs: int = 0
    norm_outputs: int = 0
    relu_outputs: int = 0
    pooled_inputs: int = 0

    def gflops(self, convention: Convention) -> float:
        """Billions of operations in the convention asked for."""
        if convention == "A":
            return self.macs / 1e9
        if convention == "B":
            return self.macs / 2**30
        if convention == "B+2BN":
            return (self.macs + 2 * self.norm_outputs) / 2**30
        extra = self.bias_outputs + 2 * self.norm_outputs + self.relu_outputs + self.pooled_inputs
        return (self.macs + extra) / 1e9


@dataclass(frozen=True, slots=True)
class Count:
    """One row of `posenets count`: what we reach beside what the paper prints."""

    name: str
    input: str
    params: int
    gflops: float
    convention: Convention
    gmacs: float
    paper_params: float | None
    paper_gflops: float | None
    deviation: dict[str, float | None]
    """Relative to the paper, in per cent: `params` and `gflops`."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def count_operations(network: nn.Module, size_wh: tuple[int, int]) -> Operations:
    """Runs one black picture of `size_wh` through the network and adds up its layers."""
    total = Operations()

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        cost = _cost(module, inputs[0], output)
        total = replace(
            total, **{name: getattr(total, name) + value for name, value in cost.items()}
        )

    hooks = [m.register_forward_hook(add) for m in network.modules() if not list(m.children())]
    was_training = network.training
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, size_wh[1], size_wh[0], device=device))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return total


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_network(name: str) -> Count:
    """Counts a network of the table; nothing is computed, the tensors have shapes only."""
    entry = NETWORKS[name]
    with torch.device("meta"):
        network = entry.build()
    operations = count_operations(network, entry.size_wh)
    params, gflops = count_parameters(network), operations.gflops(entry.convention)
    return Count(
        name=name,
        input=f"{entry.size_wh[1]}x{entry.size_wh[0]}",
        params=params,
        gflops=gflops,
        convention=entry.convention,
        gmacs=operations.gflops("A"),
        paper_params=entry.paper_params,
        paper_gflops=entry.paper_gflops,
        deviation={
            "params": _deviation(params, entry.paper_params),
            "gflops": _deviation(gflops, entry.paper_gflops),
        },
    )


def count_all() -> list[Count]:
    """Every network of the table, in its order; the progress is told on standard error."""
    return [count_network(name) for name in shown(list(NETWORKS), "count")]


def table_rows(counts: list[Count]) -> list[dict[str, str | float | None]]:
    """What `posenets count` shows of each network: millions, billions and per cent."""
    return [
        {
            "network": count.name,
            "input": count.input,
            "params": round(count.params / 1e6, 3),
            "paper's": count.paper_params and round(count.paper_params / 1e6, 2),
            "off %": count.deviation["params"] and round(count.deviation["params"], 1),
            "gflops": round(count.gflops, 3),
            "paper's gflops": count.paper_gflops,
            "by %": count.deviation["gflops"] and round(count.deviation["gflops"], 1),
            "rule": count.convention,
            "gmacs": round(count.gmacs, 3),
        }
        for count in counts
    ]


def _cost(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, int]:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # A transposed convolution spreads each input position, a convolution gathers each output.
        positions = x[0, 0] if isinstance(module, nn.ConvTranspose2d) else y[0, 0]
        fan = (y if isinstance(module, nn.ConvTranspose2d) else x).shape[1] // module.groups
        channels = (x if isinstance(module, nn.ConvTranspose2d) else y).shape[1]
        area = module.kernel_size[0] * module.kernel_size[1]
        return {
            "macs": positions.numel() * area * fan * channels,
            "bias_outputs": y.numel() if module.bias is not None else 0,
        }
    if isinstance(module, nn.Linear):
        return {
            "macs": x.numel() * module.out_features,
            "bias_outputs": y.numel() if module.bias is not None else 0,
        }
    if isinstance(module, nn.BatchNorm2d):
        return {"norm_outputs": y.numel()}
    if isinstance(module, nn.ReLU | nn.ReLU6):
        return {"relu_outputs": y.numel()}
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.MaxPool2d):
        return {"pooled_inputs": x.numel()}
    return {}


def _deviation(reached: float, paper: float | None) -> float | None:
    return None if paper is None else 100 * (reached / paper - 1)
