"""One of two processes that train a small network on halves of the same batches.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python two_processes.py OUT
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from posenets.training.loop import Trainer
from posenets.training.processes import joined
from posenets.training.recipe import Phase, PoseRecipe

STEPS, BATCH = 6, 8


@dataclass
class Halves:
    """Batches known to all; a process takes every `of`-th row. Nothing is random."""

    of: int
    mine: int
    losses: list[float] = field(default_factory=list)

    def draw(self, seen: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(seen)
        rows = torch.randn(BATCH, 3, 16, 16, generator=generator)[self.mine :: self.of]
        return rows, len(rows)

    def loss(self, network: nn.Module, batch: Tensor) -> Tensor:
        return (network(batch) - batch.mean((1, 2, 3), keepdim=True)).square().mean()

    def random_state(self) -> Any:
        return 0

    def set_random_state(self, state: Any) -> None:
        pass

    def reseed(self, seed: int) -> None:
        pass


def train(task: Halves, rank: int, checkpoint: Path, device: torch.device) -> Trainer[Tensor]:
    """Train a network without batch statistics; each process starts from weights of its own."""
    torch.manual_seed(rank)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 1, 3))
    recipe = PoseRecipe(
        task="pose",
        network="posefpn-small",
        examples=STEPS * BATCH,
        phases=(Phase(width=64, height=64, share=1, batch=BATCH // task.of),),
        learning_rate=1e-2,
        warmup=1,
    )
    trainer = Trainer(network, recipe, task, device=device, checkpoint=checkpoint)
    step = trainer._step

    def recorded(batch: Tensor, *, late: bool) -> tuple[Tensor, bool]:
        loss, late = step(batch, late=late)
        task.losses.append(float(loss))
        return loss, late

    trainer._step = recorded  # type: ignore[method-assign]
    trainer.run(console=Console(quiet=True))
    return trainer


def main(out: Path) -> None:
    with joined("cpu") as device:
        rank = torch.distributed.get_rank()
        task = Halves(torch.distributed.get_world_size(), rank)
        trainer = train(task, rank, out / "shared.pt", device)
        weights = [float(p.double().sum()) for p in trainer.network.parameters()]
        found = {"losses": task.losses, "weights": weights}
        (out / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
