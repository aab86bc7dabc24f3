"""The training loop: resumable, in one process or several, moving average, growing input.

What a batch is and what is lost on it belongs to the task (`pose_task.py`, `detection_task.py`).
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from rich.console import Console
from torch import Tensor, nn

from posenets.training.ahead import ahead
from posenets.training.checkpoint import (
    BadCheckpoint,
    check_moments,
    fit_weights,
    load_checkpoint,
    not_finite,
    refuse_other_normalisation,
    refuse_other_run,
    save_checkpoint,
    weights_in,
)
from posenets.training.log import TrainingLog, progress_bar
from posenets.training.processes import place, share, start_alike
from posenets.training.recipe import Recipe, first_fault
from posenets.training.records import BadData
from posenets.training.schedule import rate_at

_REPORT_STEPS = 100
_AHEAD = 2
_OPTIMISERS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
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

    def reseed(self, seed: int) -> None:
        """Start the random source anew, so that processes draw different examples."""
        ...


@dataclass(slots=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Done:
    """What a run has done so far: examples, steps, seconds of work, the best AP evaluated."""

    seen: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=0)] = 0
    seconds: float = 0.0
    best_ap: float = -1.0


class Trainer(Generic[Batch]):
    """Trains one network on one task until the recipe's examples are seen.

    A checkpoint holds the network, its moving average, the optimiser and the random state, so a
    killed run goes on from its last one; and the names of a pose network's `joints`. With `amp` the
    network computes in bfloat16 where torch.autocast knows to, on a GPU unless told otherwise.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        task: Task[Batch],
        *,
        device: torch.device,
        checkpoint: Path,
        amp: bool | None = None,
        joints: tuple[str, ...] | None = None,
    ) -> None:
        self.recipe = recipe
        self.task = task
        self.device = device
        self.checkpoint = checkpoint
        self.amp = device.type == "cuda" if amp is None else amp
        self.joints = joints
        self.rank, self.processes = place()
        if self.rank:
            task.reseed(self.rank)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        start_alike(self.network)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.progress = Done()
        self.waited_s = 0.0  # for data, in the last run
        self.worked_s = 0.0  # in the network; on a GPU: handing it the work
        self._random = task.random_state()
        backbone = [p for n, p in network.named_parameters() if n.startswith("backbone.")]
        head = [p for n, p in network.named_parameters() if not n.startswith("backbone.")]
        self.optimiser = _OPTIMISERS[recipe.optimiser](
            [{"params": head}, {"params": backbone}], lr=recipe.learning_rate
        )
        self._heed_recipe()

    def resume(self) -> bool:
        """Take up the last checkpoint, if there is one; raises BadCheckpoint."""
        path = self.checkpoint
        if not path.exists():
            return False
        state = load_checkpoint(path)
        refuse_other_run(state, self.recipe, path, joints=self.joints)
        refuse_other_normalisation(state, self.recipe, path)
        try:
            fit_weights(self.network, weights_in(state, path, "network"), path)
            fit_weights(self.ema, weights_in(state, path, "ema"), path)
            self.progress = _progress_in(state, path)
            self.optimiser.load_state_dict(state["optimiser"])
            check_moments(self.optimiser, path, begun=self.progress.steps > 0)
            self._heed_recipe()
            if _is_of_another_device(state["random"], self._random):
                self.task.reseed(self.progress.seen)
            else:
                self.task.set_random_state(state["random"])
            self._random = self.task.random_state()
        except KeyError as error:
            raise BadCheckpoint(f"{path}: field {error} is missing; not made by train") from error
        except BadCheckpoint:
            raise
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise BadCheckpoint(f"{path}: not a checkpoint of this recipe: {error}") from error
        self.progress.best_ap = self._kept_ap()
        if self.rank:
            self.task.reseed(self.progress.seen + self.rank)
        return True

    def run(
        self,
        *,
        seconds: float = math.inf,
        save_every_s: float = 240,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        log: TrainingLog | None = None,
        console: Console | None = None,
    ) -> Done:
        """Train until the recipe ends or `seconds` pass.

        At each save `evaluate` measures the moving average; the checkpoint of the highest `ap` is
        kept beside the last. Raises BadData where the run has diverged; the checkpoint stays the
        last good one.
        """
        console = console or Console()
        begun, start = self.progress.seen, time.monotonic()
        last_save = start
        self.waited_s = self.worked_s = 0.0
        losses: list[Tensor] = []
        late = False
        # Drawn ahead in a thread, so that the network never waits for data.
        with closing(ahead(self._batches(), _AHEAD)) as batches, progress_bar(console) as bar:
            shown = bar.add_task("examples", total=self.recipe.examples)
            while self.progress.seen < self.recipe.examples and not late:
                before = time.monotonic()
                batch, count, self._random = next(batches)
                drawn = time.monotonic()
                loss, late = self._step(batch, late=drawn - start > seconds)
                self.waited_s += drawn - before
                self.worked_s += time.monotonic() - drawn
                losses.append(loss)
                self.progress.seen += count * self.processes
                self.progress.steps += 1
                bar.update(shown, completed=self.progress.seen)
                now = time.monotonic()
                done = late or self.progress.seen >= self.recipe.examples
                reports = done or self.progress.steps % _REPORT_STEPS == 0
                saves = done or (self.rank == 0 and now - last_save > save_every_s)
                if reports or saves:
                    self._check_finite(losses, weights=saves)
                if reports:
                    if self.rank == 0:
                        self._tell(losses, begun, now - start, log, console)
                    losses.clear()
                if saves:
                    self.progress.seconds += now - last_save
                    if self.rank == 0:
                        self._keep(evaluate, log, console)
                    last_save = time.monotonic()  # however long the evaluation took
        return self.progress

    def _kept_ap(self) -> float:
        """The AP of the best checkpoint, which is written before the run's own tells of it."""
        if not self.best.exists():
            return -1.0
        try:
            kept = load_checkpoint(self.best)
            best_ap = _progress_in(kept, self.best).best_ap
            refuse_other_run(kept, self.recipe, self.best, joints=self.joints)
        except BadCheckpoint as error:
            raise BadCheckpoint(f"{error}; or remove {self.best}, to go on without it") from error
        return best_ap

    @property
    def best(self) -> Path:
        """Where the checkpoint of the highest AP is kept."""
        return self.checkpoint.with_suffix(".best" + self.checkpoint.suffix)

    def save(self, path: Path | None = None) -> None:
        """Write the checkpoint."""
        state = {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": self._random,
            "progress": asdict(self.progress),
            "recipe": self.recipe.model_dump_json(),
            "joints": None if self.joints is None else [*self.joints],
        }
        save_checkpoint(path or self.checkpoint, state)

    def _tell(
        self,
        losses: list[Tensor],
        begun: int,
        elapsed_s: float,
        log: TrainingLog | None,
        console: Console,
    ) -> None:
        figures = self._figures(losses, begun, elapsed_s)
        console.print(self._line(figures), highlight=False, soft_wrap=True)
        if log is not None:
            log.add(figures, self.progress.seen)

    def _keep(
        self,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
        log: TrainingLog | None,
        console: Console,
    ) -> None:
        """Save, then evaluate, which may fail; the best of a former run is removed before."""
        if not self.checkpoint.exists():
            self.best.unlink(missing_ok=True)
        self.save()
        if evaluate is not None:
            self._measure(evaluate, log, console)

    def _measure(
        self,
        evaluate: Callable[[nn.Module], Mapping[str, float]],
        log: TrainingLog | None,
        console: Console,
    ) -> None:
        """Evaluate what was just saved; the best so far is saved again, with its AP, and kept."""
        figures = evaluate(self.ema)
        said = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        console.print(f"  evaluated: {said}", highlight=False, soft_wrap=True)
        if log is not None:
            measured = {f"evaluation/{name}": value for name, value in figures.items()}
            log.add(measured, self.progress.seen)
        if figures["ap"] > self.progress.best_ap:
            self.progress.best_ap = figures["ap"]
            self.save(self.best)
            self.save()

    def _check_finite(self, losses: list[Tensor], *, weights: bool) -> None:
        """Raises BadData where a loss is not finite, or one of the `weights` after a gradient.

        Not at every step: a report and a save wait for the device anyway.
        """
        finite = bool(torch.stack(losses).isfinite().all())
        if finite and not (weights and not_finite(self.network)):
            return
        kept = "no checkpoint was written"
        if self.checkpoint.exists():
            kept = f"{self.checkpoint} is still the last good checkpoint"
        raise BadData(
            f"the run has diverged: after {self.progress.seen} examples the loss or a weight is "
            f"NaN or infinite; {kept}; try a lower learning_rate, a smaller clip or a longer "
            "warmup, and look for broken labels"
        )

    def _heed_recipe(self) -> None:
        """Set the optimiser by the recipe, also after a resume, which brings former settings."""
        shares = (1.0, self.recipe.backbone_rate)
        for group, share_ in zip(self.optimiser.param_groups, shares, strict=True):
            group |= {"share": share_, "weight_decay": self.recipe.weight_decay}

    def _step(self, batch: Batch, *, late: bool) -> tuple[Tensor, bool]:
        """One step; the loss over all processes, and whether any of them is `late`."""
        rate = rate_at(self.recipe, self.progress.seen)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            loss = self.task.loss(self.network, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        shared, late = share(self.network, loss.detach(), late=late)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self._average()
        return shared, late

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.progress.steps) / (10 + self.progress.steps))
        ours, theirs = self.ema.state_dict(), self.network.state_dict()
        names = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in names], [theirs[n] for n in names], 1 - decay)

    def _figures(self, losses: list[Tensor], begun: int, elapsed_s: float) -> dict[str, float]:
        """What is worth telling of the last steps; `begun` examples were seen before this start."""
        return {
            "loss": float(np.mean([float(loss) for loss in losses])),
            "examples_per_s": (self.progress.seen - begun) / elapsed_s,
            "rate": rate_at(self.recipe, self.progress.seen),
            "waited_share": self.waited_s / elapsed_s,
            "network_share": self.worked_s / elapsed_s,
        }

    def _line(self, figures: Mapping[str, float]) -> str:
        left = (self.recipe.examples - self.progress.seen) / figures["examples_per_s"] / 60
        return (
            f"{self.progress.seen}/{self.recipe.examples}  loss {figures['loss']:.3e}  "
            f"{figures['examples_per_s']:.0f}/s  rate {figures['rate']:.2e}  {left:.0f} min left  "
            f"network {100 * figures['network_share']:.1f} %  "
            f"waited for data {100 * figures['waited_share']:.1f} %"
        )

    def _batches(self) -> Iterator[tuple[Batch, int, Any]]:
        """Batches, each with its size and the random state after it, which a checkpoint keeps."""
        seen = self.progress.seen
        while seen < self.recipe.examples:
            batch, count = self.task.draw(seen)
            seen += count * self.processes
            yield batch, count, self.task.random_state()


def _is_of_another_device(state: Any, ours: Any) -> bool:
    """Whether it is the state of a generator on another kind of device, whose size differs."""
    return isinstance(state, Tensor) and isinstance(ours, Tensor) and state.shape != ours.shape


def _progress_in(state: Mapping[str, Any], path: Path) -> Done:
    """What a checkpoint's run had done; raises BadCheckpoint."""
    try:
        return Done(**state["progress"])
    except KeyError as error:
        raise BadCheckpoint(f"{path}: field {error} is missing; not made by train") from error
    except ValidationError as error:
        raise BadCheckpoint(
            f"{path}: not a checkpoint of this recipe: progress: {first_fault(error)}"
        ) from error
    except TypeError as error:
        raise BadCheckpoint(f"{path}: not a checkpoint of this recipe: {error}") from error
