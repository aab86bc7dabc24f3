"""What a recipe's `residual_start` does to a deep network: its gradient, and how fast it learns.

    python benchmarks/residual_start.py [--network goatpose-bl] [--steps 40]

`gradient` is the median over the parameters of the cosine between the first gradient in float32
and in bfloat16: near 0 where so small a difference already changes it wholly. `loss` is the mean
of the last ten steps on 32 made crops, learned by heart, in the unit that `posenets train` prints.
"""

import argparse
import copy
import statistics

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from posegate.tables import print_table
from posenets.networks import build_network
from posenets.networks.blocks import weaken_residuals
from posenets.training.loss import heatmap_weighting_loss, localisation_loss
from posenets.training.targets import exact_targets

STARTS = (1.0, 0.1)
CROPS, BATCH, WIDTH, HEIGHT, SIGMA = 32, 16, 96, 128, 1.5
LOCALISE, SCALE = 3e-4, 1000
RATE, WARM_UP, LAST = 1e-3, 20, 10


def crops_of(joints: int) -> tuple[Tensor, Tensor]:
    """Smooth noise (N, 3, H, W), and heatmaps (N, J, H/4, W/4) with peaks anywhere."""
    noise = torch.randn(CROPS, 3, HEIGHT // 8, WIDTH // 8)
    images = nn.functional.interpolate(noise, size=(HEIGHT, WIDTH), mode="bicubic")
    map_wh = WIDTH // 4, HEIGHT // 4
    points = torch.rand(CROPS, joints, 2) * torch.tensor(map_wh)
    return images, exact_targets(points, map_wh, SIGMA)[0]


def loss_of(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    heatmaps, weights = network(images).float(), torch.ones(targets.shape[:2])
    where = localisation_loss(heatmaps, targets, weights)
    return SCALE * (heatmap_weighting_loss(heatmaps, targets, weights) + LOCALISE * where)


def gradient_cosine(network: nn.Module, images: Tensor, targets: Tensor) -> float:
    gradients = []
    for halves in (False, True):
        fresh = copy.deepcopy(network).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=halves):
            loss_of(fresh, images, targets).backward()
        gradients.append([p.grad.flatten() for p in fresh.parameters() if p.grad is not None])
    pairs = zip(*gradients, strict=True)
    return statistics.median(float(cosine_similarity(a, b, 0)) for a, b in pairs)


def learned(network: nn.Module, images: Tensor, targets: Tensor, steps: int) -> float:
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP)
        part = slice(step * BATCH % CROPS, step * BATCH % CROPS + BATCH)
        loss = loss_of(network, images[part], targets[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return statistics.mean(losses[-LAST:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="goatpose-bl")
    parser.add_argument("--steps", type=int, default=40)
    told = parser.parse_args()
    rows = []
    for start in STARTS:
        torch.manual_seed(0)
        network = build_network(told.network, size_wh=(WIDTH, HEIGHT))
        weaken_residuals(network, start)
        images, targets = crops_of(network.last.out_channels)
        cosine = gradient_cosine(network, images[:BATCH], targets[:BATCH])
        loss = learned(network, images, targets, told.steps)
        rows.append({"residual_start": start, "gradient": f"{cosine:.2f}", "loss": f"{loss:.2f}"})
    print_table(f"{told.network}, {told.steps} steps", rows)


if __name__ == "__main__":
    main()
