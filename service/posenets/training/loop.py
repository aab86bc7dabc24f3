"""The training loop: resumable, moving average, cosine rate with warm-up, growing input.

What a batch is and what is lost on it belongs to the task (`pose_task.py`, `detection_task.py`).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from posenets.training.checkpoint import load_checkpoint, save_checkpoint
from posenets.training.recipe import Recipe

_REPORT_STEPS = 100
Batch = TypeVar("Batch")


class Task(Protocol[Batch]):
    """What is learned."""

    def draw(self, seen: int) -> tuple[Batch, int]:
        """The next batch and its number of examples, `seen` examples into the run."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of the network on a batch."""
        ...

    def random_state(self) -> Any:
        """State of the random source, for a checkpoint."""
        ...

    def set_random_state(self, state: Any) -> None:
        """Take up a stored random state."""
        ...


@dataclass(slots=True)
class Progress:
    """What a run has done so far: examples, steps, seconds of work."""

    seen: int = 0
    steps: int = 0
    seconds: float = 0.0


class Trainer(Generic[Batch]):
    """Trains one network on one task until the recipe's examples are seen.

    A checkpoint holds the network, its moving average, the optimiser and the random state, so a
    killed run goes on from its last one.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        task: Task[Batch],
        *,
        device: torch.device,
        checkpoint: Path,
        amp: bool = False,
    ) -> None:
        self.recipe = recipe
        self.task = task
        self.device = device
        self.checkpoint = checkpoint
        self.amp = amp
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.progress = Progress()
        self.waited_s = 0.0
        backbone = [p for n, p in network.named_parameters() if n.startswith("backbone.")]
        head = [p for n, p in network.named_parameters() if not n.startswith("backbone.")]
        self.optimiser = torch.optim.AdamW(
            [{"params": head, "share": 1.0}, {"params": backbone, "share": recipe.backbone_rate}],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        )

    def resume(self) -> bool:
        """Take up the last checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return False
        state = load_checkpoint(self.checkpoint)
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.task.set_random_state(state["random"])
        self.progress = Progress(**state["progress"])
        return True

    def run(
        self,
        *,
        seconds: float = math.inf,
        save_every_s: float = 240,
        report: Callable[[nn.Module], str] | None = None,
        console: Console | None = None,
    ) -> Progress:
        """Train until the recipe ends or `seconds` pass; `report(ema)` is printed at each save."""
        console = console or Console()
        begun, start = self.progress.seen, time.monotonic()
        last_save = start
        losses: list[Tensor] = []
        for batch, count in self._batches():
            losses.append(self._step(batch))
            self.progress.seen += count
            self.progress.steps += 1
            now = time.monotonic()
            if self.progress.steps % _REPORT_STEPS == 0:
                rate = (self.progress.seen - begun) / (now - start)
                console.print(self._line(losses, rate, now - start), highlight=False)
                losses.clear()
            done = self.progress.seen >= self.recipe.examples or now - start > seconds
            if done or now - last_save > save_every_s:
                self.progress.seconds += now - last_save
                self.save()
                last_save = now
                if report is not None:
                    console.print(f"  {report(self.ema)}", highlight=False)
            if done:
                break
        return self.progress

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self.task.random_state(),
            "progress": asdict(self.progress),
            "recipe": self.recipe.model_dump_json(),
        }
        save_checkpoint(self.checkpoint, state)

    def _step(self, batch: Batch) -> Tensor:
        rate = self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = self.task.loss(self.network, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self._average()
        return loss.detach()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.progress.steps) / (10 + self.progress.steps))
        ours, theirs = self.ema.state_dict(), self.network.state_dict()
        names = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in names], [theirs[n] for n in names], 1 - decay)

    def _rate(self) -> float:
        done = min(self.progress.seen / self.recipe.examples, 1.0)
        low = self.recipe.final_rate
        cosine = low + (1 - low) * (1 + math.cos(math.pi * done)) / 2
        warm = min(1.0, (self.progress.seen + 1) / self.recipe.warmup)
        return self.recipe.learning_rate * cosine * warm

    def _line(self, losses: list[Tensor], rate: float, elapsed_s: float) -> str:
        left = (self.recipe.examples - self.progress.seen) / rate / 60
        mean = float(np.mean([float(loss) for loss in losses]))
        waiting = 100 * self.waited_s / elapsed_s
        return (
            f"{self.progress.seen}/{self.recipe.examples}  loss {mean:.3e}  {rate:.0f}/s  "
            f"rate {self._rate():.2e}  {left:.0f} min left  waited for data {waiting:.1f} %"
        )

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """Batches drawn ahead in a thread, so that the network never waits for data."""
        queue: Queue[tuple[Batch, int] | BaseException] = Queue(maxsize=2)
        seen = self.progress.seen

        def draw() -> None:
            ahead = seen
            try:
                while ahead < self.recipe.examples:
                    batch, count = self.task.draw(ahead)
                    ahead += count
                    queue.put((batch, count))
            except BaseException as error:
                queue.put(error)

        Thread(target=draw, daemon=True).start()
        while True:
            before = time.monotonic()
            item = queue.get()
            self.waited_s += time.monotonic() - before
            if isinstance(item, BaseException):
                raise item
            yield item
