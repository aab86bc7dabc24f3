"""What a recipe's `residual_start` does to a deep network: its gradient, and how fast it learns.

    python benchmarks/residual_start.py CACHE [--network goatpose-bl] [--steps 40]

CACHE is a folder of `posenets cache`; the rest is as the `short` recipe says, at its small input.
`gradient` is the median over the parameters of the cosine between the first gradient in float32
and in bfloat16: near 0 where so small a difference already changes it wholly. `loss` is the mean
of the last ten steps on 32 crops, learned by heart.
"""

import argparse
import copy
import statistics
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from posegate.tables import print_table
from posenets.training.augment import Batch
from posenets.training.pose_task import PoseTask
from posenets.training.recipe import find_recipe, read_recipe
from posenets.training.start import pose_trainer, with_network

STARTS = (1.0, 0.1)
BATCH, BATCHES = 16, 2
WARM_UP, LAST = 20, 10


def gradient_cosine(task: PoseTask, network: nn.Module, batch: Batch) -> float:
    gradients = []
    for halves in (False, True):
        fresh = copy.deepcopy(network).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=halves):
            task.loss(fresh, batch).backward()
        gradients.append([p.grad.flatten() for p in fresh.parameters() if p.grad is not None])
    pairs = zip(*gradients, strict=True)
    return statistics.median(float(cosine_similarity(a, b, 0)) for a, b in pairs)


def learned(task: PoseTask, network: nn.Module, batches: list[Batch], steps: int) -> float:
    network.train()
    rate = task.recipe.learning_rate
    optimiser = torch.optim.AdamW(network.parameters())
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARM_UP)
        loss = task.loss(network, batches[step % len(batches)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return statistics.mean(losses[-LAST:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--network", default="goatpose-bl")
    parser.add_argument("--steps", type=int, default=40)
    told = parser.parse_args()
    recipe = with_network(read_recipe(find_recipe("short")), told.network)
    phase = recipe.phases[0].model_copy(update={"batch": BATCH})
    rows = []
    for start in STARTS:
        trainer = pose_trainer(
            recipe.model_copy(update={"phases": (phase,), "residual_start": start}),
            [told.cache],
            start=None,
            device=torch.device("cpu"),
            checkpoint=Path("unused.pt"),
        )
        task, network = trainer.task, trainer.network
        batches = [task.draw(0)[0] for _ in range(BATCHES)]
        cosine = gradient_cosine(task, network, batches[0])
        loss = learned(task, network, batches, told.steps)
        rows.append({"residual_start": start, "gradient": f"{cosine:.2f}", "loss": f"{loss:.2f}"})
    print_table(f"{told.network}, {told.steps} steps", rows)


if __name__ == "__main__":
    main()
