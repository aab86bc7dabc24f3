"""The loop: learns, resumes after a kill, refuses what is damaged."""

import io
import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

from made_labels import PHOTOS, encoded, made_labels
from posegate.skeleton import COCO_KEYPOINTS
from posenets.cli import app
from posenets.evaluation.during import evaluation_on
from posenets.networks.blocks import Residual
from posenets.networks.nam import NamChannel
from posenets.networks.posefpn import PoseFPN
from posenets.training.augment import Augmentation, Batch
from posenets.training.cache import build_cache, open_cache
from posenets.training.checkpoint import (
    BadCheckpoint,
    load_checkpoint,
    load_weights,
    recipe_in,
    save_checkpoint,
)
from posenets.training.log import TrainingLog
from posenets.training.loop import Trainer
from posenets.training.mpii import MPII_KEYPOINTS
from posenets.training.pose_data import StreamedPeople
from posenets.training.pose_task import PoseTask, sigma_for
from posenets.training.recipe import (
    RECIPE,
    BadRecipe,
    DetectionRecipe,
    Phase,
    PoseRecipe,
    find_recipe,
    read_recipe,
)
from posenets.training.records import BadData
from posenets.training.schedule import rate_at
from posenets.training.start import (
    detection_trainer,
    pose_trainer,
    with_network,
    without_effect,
)

CPU = torch.device("cpu")
RECIPES = sorted((Path(__file__).parents[2] / "service/posenets/recipes").glob("*.toml"))
ROOT = Path(__file__).parents[2]
STARTS = [
    *sorted((ROOT / "model_repository").glob("*/training.pt")),
    *sorted((ROOT / "unfinished").glob("*.pt")),
]


class _TinyNet(nn.Sequential):
    """Heatmaps by three convolutions: fast enough to watch it learn."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.BatchNorm2d(16), nn.Conv2d(16, 17, 3, padding=1)
        )


def _nan_loss(loss: Tensor) -> Tensor:
    return loss * math.nan


def _infinite_gradient(loss: Tensor) -> Tensor:
    return loss + (loss - loss.detach()).sqrt()


def _recipe(examples: int, **told: Any) -> PoseRecipe:
    return PoseRecipe(
        **told,
        task="pose",
        network="posefpn-small",
        examples=examples,
        phases=(
            Phase(width=64, height=64, share=0.5, batch=4),
            Phase(width=64, height=96, share=0.5, batch=4),
        ),
        warmup=8,
        learning_rate=1e-2,
        clip=100.0,
        augmentation=Augmentation(flip=0, rotation=0, scale_std=0, shift=0, half_body=0, erase=0),
    )


def _trainer(folder: Path, checkpoint: Path, recipe: PoseRecipe) -> Trainer:  # type: ignore[type-arg]
    torch.manual_seed(0)
    task = PoseTask([open_cache(folder)], recipe, CPU)
    return Trainer(_TinyNet(), recipe, task, device=CPU, checkpoint=checkpoint)


def test_loss_falls_and_the_last_checkpoint_is_whole(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(160))
    batch, _ = trainer.task.draw(0)
    before = float(trainer.task.loss(trainer.network, batch).detach())
    trainer.run()
    after = float(trainer.task.loss(trainer.network, batch).detach())
    assert after < 0.7 * before
    assert load_checkpoint(tmp_path / "run.pt")["progress"]["seen"] == 160


def test_end_of_a_short_run_tells_its_figures_once(cached: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    _trainer(cached, tmp_path / "run.pt", _recipe(12)).run(console=console)
    assert re.fullmatch(r"12/12  loss \d[^\n]*  0 min left [^\n]*\n", console.file.getvalue())


def test_killed_run_goes_on_where_its_checkpoint_stands(cached: Path, tmp_path: Path) -> None:
    recipe = _recipe(48)
    first = _trainer(cached, tmp_path / "run.pt", recipe)
    first.run(seconds=0)
    second = _trainer(cached, tmp_path / "run.pt", recipe)
    assert second.resume()
    assert second.progress.seen == first.progress.seen == 4
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[name]), name
    assert second.run().seen == 48


def test_a_resumed_run_heeds_a_recipe_that_has_changed(cached: Path, tmp_path: Path) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(8)).run()
    changed = _recipe(16, weight_decay=0.3, backbone_rate=0.25)
    second = _trainer(cached, tmp_path / "run.pt", changed)
    assert second.resume()
    groups = second.optimiser.param_groups
    assert [(group["share"], group["weight_decay"]) for group in groups] == [
        (1.0, 0.3),
        (0.25, 0.3),
    ]


@pytest.mark.parametrize("spoil", [_nan_loss, _infinite_gradient])
@pytest.mark.parametrize("save_every_s", [0, 240])
def test_diverged_run_stops_and_keeps_the_last_good_checkpoint(
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Tensor], Tensor],
    save_every_s: float,
) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(24)).run(seconds=0)
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(24))
    assert trainer.resume()
    good = (tmp_path / "run.pt").read_bytes()
    loss = trainer.task.loss
    monkeypatch.setattr(trainer.task, "loss", lambda network, batch: spoil(loss(network, batch)))
    said = rf"after {24 if save_every_s else 8} examples .* NaN .*run\.pt is still the last good"
    with pytest.raises(BadData, match=said):
        trainer.run(save_every_s=save_every_s)
    assert (tmp_path / "run.pt").read_bytes() == good


def test_diverged_run_that_never_saved_says_so(cached: Path, tmp_path: Path) -> None:
    recipe = _recipe(8).model_copy(update={"learning_rate": math.inf})
    with pytest.raises(BadData, match="no checkpoint was written"):
        _trainer(cached, tmp_path / "run.pt", recipe).run()
    assert not (tmp_path / "run.pt").exists()


def test_killed_run_knows_its_best_ap(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(12))
    trainer.run(seconds=0, evaluate=lambda network: {"ap": 0.5})
    assert load_checkpoint(tmp_path / "run.pt")["progress"]["best_ap"] == 0.5
    assert load_checkpoint(tmp_path / "run.best.pt")["progress"]["best_ap"] == 0.5


def test_a_kill_amid_the_saves_of_a_best_does_not_lose_it(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(12))
    trainer.run(seconds=0, evaluate=lambda network: {"ap": 0.2})
    before = (tmp_path / "run.pt").read_bytes()
    trainer.run(seconds=0, evaluate=lambda network: {"ap": 0.5})
    (tmp_path / "run.pt").write_bytes(before)  # as if killed between the two
    again = _trainer(cached, tmp_path / "run.pt", _recipe(12))
    assert again.resume()
    again.run(seconds=0, evaluate=lambda network: {"ap": 0.3})
    assert load_checkpoint(tmp_path / "run.best.pt")["progress"]["best_ap"] == 0.5


def test_a_best_checkpoint_that_was_removed_is_made_anew(cached: Path, tmp_path: Path) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(12)).run(
        seconds=0, evaluate=lambda _: {"ap": 0.5}
    )
    (tmp_path / "run.best.pt").unlink()
    again = _trainer(cached, tmp_path / "run.pt", _recipe(12))
    assert again.resume()
    again.run(seconds=0, evaluate=lambda _: {"ap": 0.3})
    assert load_checkpoint(tmp_path / "run.best.pt")["progress"]["best_ap"] == 0.3


def test_the_best_of_a_former_run_is_not_the_next_ones(cached: Path, tmp_path: Path) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(4)).run(evaluate=lambda _: {"ap": 0.9})
    (tmp_path / "run.pt").unlink()

    def killed(network: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _trainer(cached, tmp_path / "run.pt", _recipe(12)).run(seconds=0, evaluate=killed)
    again = _trainer(cached, tmp_path / "run.pt", _recipe(12))
    assert again.resume()
    again.run(seconds=0, evaluate=lambda _: {"ap": 0.3})
    assert load_checkpoint(tmp_path / "run.best.pt")["progress"]["best_ap"] == 0.3


def test_a_run_of_another_kind_of_device_goes_on_with_examples_of_its_own(
    cached: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run.pt"
    _trainer(cached, out, _recipe(12)).run(seconds=0)
    state = load_checkpoint(out)
    save_checkpoint(out, state | {"random": torch.zeros(16, dtype=torch.uint8)})  # as a GPU's
    resumed = _trainer(cached, out, _recipe(12))
    assert resumed.resume()
    task = resumed.task
    task.reseed(state["progress"]["seen"])
    assert torch.equal(resumed._random, task.random_state())
    assert resumed.run().seen == 12
    for damaged in (torch.full_like(state["random"], 255), [1, 2], None):
        save_checkpoint(out, state | {"random": damaged})
        with pytest.raises(BadCheckpoint, match=r"run\.pt: not a checkpoint of this recipe"):
            _trainer(cached, out, _recipe(12)).resume()


def test_a_best_checkpoint_of_another_run_is_not_taken_for_this_ones(
    cached: Path, tmp_path: Path
) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(4)).run(evaluate=lambda _: {"ap": 0.9})
    best = tmp_path / "run.best.pt"
    other = load_checkpoint(best)
    recipe = json.loads(other["recipe"]) | {"network": "goatpose-bl"}
    save_checkpoint(best, other | {"recipe": json.dumps(recipe)})
    words = rf"run\.best\.pt: holds a run with network 'goatpose-bl'.*; or remove {best}, to go on"
    with pytest.raises(BadCheckpoint, match=words):
        _trainer(cached, tmp_path / "run.pt", _recipe(4)).resume()
    best.write_bytes(b"damaged")
    with pytest.raises(BadCheckpoint, match=rf"run\.best\.pt: .*; or remove {best}, to go on"):
        _trainer(cached, tmp_path / "run.pt", _recipe(4)).resume()


def test_a_foreign_best_is_named_by_its_own_file(cached: Path, tmp_path: Path) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(4)).run()
    save_checkpoint(tmp_path / "run.best.pt", {"ema": {}})
    with pytest.raises(BadCheckpoint, match=r"run\.best\.pt: field 'progress' is missing"):
        _trainer(cached, tmp_path / "run.pt", _recipe(4)).resume()


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"weights": torch.zeros(3)})
    before = path.read_bytes()

    def full(state: object, file: BinaryIO) -> None:
        file.write(b"some")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"cannot be written \(no room for it\?\): '.*run\.pt'"):
        save_checkpoint(path, {"weights": torch.ones(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_evaluation_leaves_the_time_between_saves_to_training(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 1.0  # it is asked a few times in each step
        return now

    def evaluate(network: nn.Module) -> dict[str, float]:
        nonlocal now
        now += 1000.0
        evaluated.append(trainer.progress.steps)
        return {"ap": 0.1}

    evaluated: list[int] = []
    monkeypatch.setattr("posenets.training.loop.time", SimpleNamespace(monotonic=monotonic))
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(120))
    progress = trainer.run(save_every_s=20.0, evaluate=evaluate)
    *evaluated, _ = evaluated  # the last comes at the end, however soon
    assert len(evaluated) > 2
    assert min(second - first for first, second in pairwise(evaluated)) > 2
    assert progress.seconds < 1000


def test_failing_evaluation_loses_no_training(cached: Path, tmp_path: Path) -> None:
    def evaluate(network: nn.Module) -> dict[str, float]:
        raise BadData("3.png: not a readable photo")

    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(12))
    with pytest.raises(BadData, match=r"3\.png"):
        trainer.run(seconds=0, evaluate=evaluate)
    assert load_checkpoint(tmp_path / "run.pt")["progress"]["seen"] == 4


def test_damaged_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"not a checkpoint")
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_checkpoint(damaged)
    foreign = tmp_path / "foreign.pt"
    torch.save({"ema": {"other.weight": torch.zeros(1)}}, foreign)
    with pytest.raises(BadCheckpoint, match=r"foreign\.pt: does not fit PoseFPN"):
        load_weights(PoseFPN(), foreign)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda state: state.pop("optimiser"), "field 'optimiser' is missing"),
        (lambda state: state.update(network=[1]), "field 'network' holds no weights by name"),
        (lambda state: state["network"].pop("0.weight"), r"does not fit _TinyNet.*0\.weight"),
        (lambda state: state["progress"].update(epoch=3), "not a checkpoint of this recipe"),
        (lambda state: state["progress"].update(seen="abc"), "not a checkpoint .*seen: Input"),
        (lambda state: state["progress"].update(steps=-1), "not a checkpoint .*steps: Input"),
        (lambda state: state.update(progress=None), "not a checkpoint of this recipe"),
        (
            lambda state: state["optimiser"]["state"][0].update(exp_avg=torch.zeros(3)),
            r"field optimiser: exp_avg is \(3,\) where its weight is \(16, 3, 4, 4\)",
        ),
        (
            lambda state: state["optimiser"]["param_groups"][0].pop("share"),
            "field 'share' is missing",
        ),
        (lambda state: state["optimiser"]["state"].clear(), "field optimiser: no moments"),
        (lambda state: state["network"]["0.weight"].fill_(math.nan), r"0\.weight holds NaN"),
        (lambda state: state["ema"]["2.running_var"].fill_(math.inf), r"2\.running_var holds NaN"),
        (
            lambda state: state.update(recipe=_recipe(4, std=(1.0, 1.0, 1.0)).model_dump_json()),
            r".* std = \[1\.0, 1\.0, 1\.0\]; write",
        ),
    ],
)
def test_run_does_not_go_on_from_a_foreign_checkpoint(
    cached: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], object], named: str
) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(4)).run()
    state = load_checkpoint(tmp_path / "run.pt")
    damage(state)
    torch.save(state, tmp_path / "run.pt")
    with pytest.raises(BadCheckpoint, match=f"run\\.pt: (?s:{named})"):
        _trainer(cached, tmp_path / "run.pt", _recipe(4)).resume()


def test_moving_average_follows_the_network(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(40))
    start = {n: p.clone() for n, p in trainer.ema.named_parameters()}
    trainer.run()
    moved = [not torch.equal(p, start[n]) for n, p in trainer.ema.named_parameters()]
    assert np.mean(moved) > 0.95


def test_moving_average_hurries_at_the_start(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(4))
    start = {n: p.detach().clone() for n, p in trainer.ema.named_parameters()}
    trainer.run()
    now = dict(trainer.network.named_parameters())
    for name, average in trainer.ema.named_parameters():
        wanted = start[name] + 0.9 * (now[name] - start[name])
        torch.testing.assert_close(average, wanted, atol=1e-7, rtol=1e-4)


def test_gradients_are_clipped(cached: Path, tmp_path: Path) -> None:
    """To so little here that they vanish beside Adam's epsilon."""
    recipe = _recipe(4).model_copy(update={"clip": 1e-14, "weight_decay": 0.0})
    trainer = _trainer(cached, tmp_path / "run.pt", recipe)
    (first, *_) = trainer.network.parameters()
    start = first.detach().clone()
    trainer.run()
    moved = (first.detach() - start).abs().max().item()
    assert 0 < moved < 1e-3 * recipe.learning_rate


@pytest.mark.parametrize("distil", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    ("weighting", "emphasis"),
    [
        ("none", torch.zeros_like),
        ("x", lambda g: g),
        ("2x", lambda g: 2 * g),
        ("x2", torch.square),
        ("exp", torch.exp),
    ],
)
def test_loss_is_that_of_the_recipe(
    weighting: str, emphasis: Callable[[Tensor], Tensor], distil: float
) -> None:
    """Of a network that finds nothing; in thousands, with the teacher's own emphasis."""
    noise = torch.Generator().manual_seed(0)
    targets, teacher = torch.rand(2, 2, 17, 16, 16, generator=noise)
    weights = torch.rand(2, 17, generator=noise)
    seen = torch.ones(2, 1, 16, 16)
    batch = Batch(torch.zeros(2, 3, 64, 64), targets, weights, teacher, seen)
    told = {"weighting": weighting, "distil": distil, "localise": 0.0}
    nobody = SimpleNamespace(joint_names=COCO_KEYPOINTS)
    task = PoseTask(nobody, _recipe(4).model_copy(update=told), CPU)
    silent = nn.Conv2d(3, 17, 4, 4)
    nn.init.zeros_(silent.weight)
    nn.init.zeros_(silent.bias)
    labelled = ((emphasis(targets) + 1) * (weights[..., None, None] * targets).square()).mean()
    taught = ((teacher + 1) * teacher.square()).mean()
    wanted = 1000 * (labelled + distil * taught)
    torch.testing.assert_close(task.loss(silent, batch).detach(), wanted)


def test_pictures_are_normalised_and_both_losses_localise() -> None:
    """The teacher's places count by its surest pixel, times the share of the input that it saw."""
    noise = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(2, 3, 32, 32, generator=noise)
    targets, teacher, drawn = torch.rand(3, 2, 17, 8, 8, generator=noise)
    weights = torch.rand(2, 17, generator=noise)
    seen = torch.ones(2, 1, 8, 8)
    seen[1, :, :2] = 0
    told = {"distil": 0.5, "localise": 0.2, "mean": (10.0, 20.0, 30.0), "std": (40.0, 50.0, 60.0)}
    nobody = SimpleNamespace(joint_names=COCO_KEYPOINTS)
    task = PoseTask(nobody, _recipe(4).model_copy(update=told), CPU)
    shown: list[Tensor] = []

    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shown.append(x)
            return drawn

    loss = task.loss(Drawing(), Batch(images, targets, weights, teacher, seen))
    for channel, (mean, spread) in enumerate([(10, 40), (20, 50), (30, 60)]):
        torch.testing.assert_close(shown[0][:, channel], (images[:, channel] - mean) / spread)

    def apart(maps: Tensor, sure: Tensor) -> Tensor:
        q, p = (torch.softmax(10 * one.flatten(2), -1) for one in (maps, drawn))
        return (sure * (q * (q / p).log()).sum(-1)).mean()

    v = weights[..., None, None]
    labelled = ((targets + 1) * (v * (drawn - targets)).square()).mean()
    taught = ((teacher + 1) * seen * (drawn - teacher).square()).mean()
    sure = teacher.flatten(2).max(2).values * torch.tensor([[1.0], [0.75]])
    wanted = labelled + 0.2 * apart(targets, weights) + 0.5 * (taught + 0.2 * apart(teacher, sure))
    torch.testing.assert_close(loss, 1000 * wanted)


def test_a_cosine_ends_at_its_final_rate() -> None:
    recipe = _recipe(100).model_copy(update={"final_rate": 0.25})
    assert rate_at(recipe, 100) == pytest.approx(0.25 * recipe.learning_rate)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path).for_data(1000)
    assert recipe.phase_at(0) == recipe.phases[0]
    assert recipe.phase_at(recipe.examples) == recipe.phases[-1]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("lerning_rate = 1e-3", "lerning_rate"),  # unknown key
        ("learning_rate = -1.0", "learning_rate"),  # out of range
        ('weighting = "cube"', "weighting"),  # not one of the five
        ('learning_rate = "0.1"', "learning_rate: must be a number"),
        ("warmup = true", "warmup: must be a number"),
        ("broken", "recipe.toml"),  # not TOML at all
        ("epochs = 2", "examples and epochs both say how long"),
        ('schedule = "steps"\nmilestones = [5, 10]', "milestones: 10 is not before the end, 10"),
        ("learning_rate = inf", "learning_rate: Input should be a finite number"),
        ("mean = [nan, 1.0, 1.0]", "mean.0: Input should be a finite number"),
        ("std = [0.0, 1.0, 1.0]", "std.0: Input should be greater than or equal to 0.001"),
        ("std = [1.0, 5000.0, 1.0]", "std.1: Input should be less than or equal to 1000"),
        ("mean = [0.0, 0.0, -1001]", "mean.2: Input should be greater than or equal to -1000"),
        ("mean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]", "multiply them by 255"),
        ("sigma = 25", "sigma: Input should be less than or equal to 20"),  # as a card's
        ("sigma = 0.05", "sigma: Input should be greater than or equal to 0.1"),
        ("clip = nan", "clip: "),  # inf is allowed: no clipping
        ("seed = -1", "seed: "),
        ("source_weights = { coco = -1.0 }", "source_weights.coco: "),
        ("source_weights = { coco = nan }", "source_weights.coco: "),
        ("sigma = true", "toml: sigma: must be a number, not True"),
        ('sigma = "2"', "toml: sigma: must be a number, not '2'"),
        ('mean = ["1", 2, 3]', "toml: mean.0: must be a number, not '1'"),
        (
            'schedule = "steps"\nmilestones = [2, "7"]',
            "toml: milestones.1: must be a number, not '7'",
        ),
        ("source_weights = { coco = true }", "toml: source_weights.coco: must be a number, not"),
        ("[augmentation]\nflip = true", "toml: augmentation.flip: must be a number, not True"),
        ('[augmentation]\nflip = "0.3"', "toml: augmentation.flip: must be a number, not '0.3'"),
        ("[augmentation]\nflipp = 0.3", "toml: augmentation.flipp: "),
        ("[augmentation]\nflip = 7.0", "augmentation.flip: "),
        ("[augmentation]\nscale_std = nan", "augmentation.scale_std: "),
        ("[augmentation]\nscale_std = 1.0", "augmentation.scale_std: "),  # down to no size
    ],
)
def test_bad_recipe_names_file_and_field(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'task = "pose"\nnetwork = "posefpn-small"\nexamples = 10\n'
        f"phases = [{{ width = 64, height = 64, share = 1.0 }}]\n{line}\n"
    )
    with pytest.raises(BadRecipe, match=named) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_a_recipe_without_a_task_is_told_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('network = "posefpn-small"\nexamples = 10\n')
    with pytest.raises(BadRecipe, match=r"recipe\.toml: task is missing; write task = 'pose' or"):
        read_recipe(tmp_path / "recipe.toml")


def test_detector_learns_from_squares(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'task = "detect"\nnetwork = "person-detector"\nexamples = 10\n'
        "phases = [{ width = 64, height = 96, share = 1.0 }]\n"
    )
    with pytest.raises(BadRecipe, match=r"recipe\.toml: phases: .*squares"):
        read_recipe(path)


def test_train_and_export_from_the_command_line_give_a_served_model(
    coco_folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        'task = "pose"\nnetwork = "posefpn-small"\nexamples = 8\nwarmup = 4\n'
        "phases = [{ width = 64, height = 64, share = 1.0, batch = 4 }]\n"
    )
    about = tmp_path / "about.json"
    about.write_text('{"description": "a test", "data": ["made dots"], "length": "8 crops"}')
    run = CliRunner()
    for arguments in (
        ["cache", coco_folder, tmp_path / "cache"],
        ["train", recipe, "--cache", tmp_path / "cache", "--out", tmp_path / "run.pt"],
        ["export", tmp_path / "run.pt", "--repository", tmp_path / "models", "--name", "made",
         "--about", about],
    ):  # fmt: skip
        result = run.invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    from posegate.catalog import load_catalog

    load_weights(PoseFPN(), tmp_path / "models" / "made" / "training.pt")
    card = load_catalog(tmp_path / "models").get(None, "pose").card
    assert card.name == "made"
    assert card.training.data == ("made dots",)
    assert card.verification[0].max_abs_diff is not None
    assert card.verification[0].max_abs_diff < 1e-4
    assert card.decoded is not None
    result = run.invoke(app, ["export-decoded", str(tmp_path / "models")])
    assert "made-decoded" in result.output


def test_command_line_reports_a_bad_recipe_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(tmp_path / "no.toml"), "--out", "run.pt"])
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "no.toml" in result.stderr


def test_resumed_run_ends_as_the_unbroken_one_does(cached: Path, tmp_path: Path) -> None:
    recipe = _recipe(32)
    unbroken = _trainer(cached, tmp_path / "whole.pt", recipe)
    unbroken.run()
    _trainer(cached, tmp_path / "run.pt", recipe).run(seconds=0)
    resumed = _trainer(cached, tmp_path / "run.pt", recipe)
    assert resumed.resume()
    assert resumed.run().seen == 32
    for name, value in resumed.ema.state_dict().items():
        torch.testing.assert_close(value, unbroken.ema.state_dict()[name], msg=name)


def test_finished_run_does_nothing_more(cached: Path, tmp_path: Path) -> None:
    _trainer(cached, tmp_path / "run.pt", _recipe(8)).run()
    again = _trainer(cached, tmp_path / "run.pt", _recipe(8))
    assert again.resume()
    assert again.run().steps == 2


def test_steps_and_warm_up_are_those_of_the_paper() -> None:
    recipe = read_recipe(find_recipe("litedeconv-paper")).for_data(1000)
    assert recipe.examples == 210_000
    assert rate_at(recipe, 0) == pytest.approx(5e-7, rel=0.1)
    rates = [rate_at(recipe, epoch * 1000) for epoch in (100, 169, 170, 199, 200, 209)]
    assert rates == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6])
    goat = read_recipe(find_recipe("goatpose")).for_data(1000)
    rates = [rate_at(goat, epoch * 1000) for epoch in (1, 170, 230, 260)]
    assert rates == pytest.approx([1e-3, 4e-4, 1.6e-4, 6.4e-5])


@pytest.mark.parametrize(
    ("recipe", "network", "sizes_wh"),
    [
        ("hrnet", "hrnet-w32-384x288", [(288, 384)]),
        ("hrnet", "hrnet-w48", [(192, 256)]),  # the same input
        ("hrnet", "litedeconv-mpii", [(256, 256)]),
        ("short", "goatpose-bh", [(160, 192), (288, 384)]),  # sides are multiples of 32
        ("goatpose-384x288", "goatpose-bl", [(192, 256)]),
    ],
)
def test_another_network_trains_at_its_own_input(
    recipe: str, network: str, sizes_wh: list[tuple[int, int]]
) -> None:
    taken = with_network(read_recipe(find_recipe(recipe)), network)
    assert taken.network == network
    assert [(phase.width, phase.height) for phase in taken.phases] == sizes_wh
    assert taken.sigma is None, "that of the new heatmaps, not of the former"


@pytest.mark.parametrize("network", ["litedeconv", "litedeconv-384x288", "litedeconv-mpii"])
def test_paper_draws_litedeconv_sigma_2_at_every_size(network: str) -> None:
    for recipe in ("litedeconv-paper", "litedeconv-mpii"):
        assert with_network(read_recipe(find_recipe(recipe)), network).sigma == 2.0


def test_targets_are_as_wide_as_hrnets() -> None:
    assert [sigma_for(width) for width in (48, 64, 72)] == [2.0, 2.0, 3.0]


def test_recipe_survives_its_checkpoint() -> None:
    recipe = read_recipe(find_recipe("goatpose"))
    assert RECIPE.validate_json(recipe.model_dump_json()) == recipe


def test_sparsity_pushes_the_scales_of_nam_and_of_nothing_else(cached: Path) -> None:
    class Nammed(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 17, 4, 4), NamChannel(17))

    recipe = _recipe(4)
    task = PoseTask([open_cache(cached)], recipe, torch.device("cpu"))
    batch, _ = task.draw(0)
    gradients = []
    for sparsity in (0.0, 0.01):
        torch.manual_seed(0)
        network = Nammed()
        task.recipe = recipe.model_copy(update={"sparsity": sparsity})
        task.loss(network, batch).backward()
        gradients.append({n: p.grad.clone() for n, p in network.named_parameters()})
    plain, sparse = gradients
    for name in plain:
        more = sparse[name] - plain[name]
        expected = 0.01 * 1000 if name == "1.norm.weight" else 0.0
        torch.testing.assert_close(more, torch.full_like(more, expected), rtol=1e-4, atol=1e-4)


def test_sparsity_without_nam_and_foreign_joints_are_refused(cached: Path, tmp_path: Path) -> None:
    def trainer(recipe: PoseRecipe) -> None:
        out = tmp_path / "run.pt"
        pose_trainer(recipe, [cached], start=None, device=torch.device("cpu"), checkpoint=out)

    with pytest.raises(BadRecipe, match="sparsity: posefpn-small has no NAM"):
        trainer(_recipe(4).model_copy(update={"sparsity": 1e-4}))
    with pytest.raises(BadData, match="17 joints are not the 16 of litedeconv-mpii"):
        trainer(_recipe(4).model_copy(update={"network": "litedeconv-mpii"}))
    with pytest.raises(BadRecipe, match="no network is called 'nosuch'"):
        trainer(_recipe(4).model_copy(update={"network": "nosuch"}))


@pytest.mark.parametrize("start", STARTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_training_goes_on_from_what_is_shipped(
    cached: Path, coco_folder: Path, tmp_path: Path, start: Path
) -> None:
    state = load_checkpoint(start)
    name = recipe_in(state, start).network
    own = Path(f"{RECIPES[0].parent / name}.toml")
    recipe = with_network(read_recipe(own if own.exists() else find_recipe("short")), name)
    given: dict[str, Any] = {"start": start, "device": CPU, "checkpoint": tmp_path / "run.pt"}
    if isinstance(recipe, PoseRecipe):
        trainer = pose_trainer(recipe, [cached], **given)
    else:
        trainer = detection_trainer(recipe, [coco_folder], crops=[], boxes=[], **given)
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(value, state["ema"][key].to(value)), key


def test_start_of_another_normalisation_is_refused_in_one_sentence(
    cached: Path, tmp_path: Path
) -> None:
    def trainer(recipe: PoseRecipe, start: Path | None) -> Trainer[Any]:
        out = tmp_path / "run.pt"
        return pose_trainer(recipe, [cached], start=start, device=CPU, checkpoint=out)

    trainer(_recipe(4), None).save(tmp_path / "start.pt")
    trainer(_recipe(4), tmp_path / "start.pt")
    said = (
        r"start\.pt: was trained with mean = \[123\.675, .* and std = \[58\.395, .*; write "
        r"them into the recipe, which has mean = \[123\.675, .* std = \[127\.5, 127\.5, 127\.5\]$"
    )
    with pytest.raises(BadCheckpoint, match=said):
        trainer(_recipe(4, std=(127.5, 127.5, 127.5)), tmp_path / "start.pt")


def test_what_the_recipe_asks_in_vain_is_said(cached: Path, pack: Path, tmp_path: Path) -> None:
    def said(recipe: PoseRecipe, *, streams: list[Path]) -> list[str]:
        caches, out = [] if streams else [cached], tmp_path / "run.pt"
        recipe = recipe.model_copy(update={"phases": (Phase(width=96, height=128, share=1.0),)})
        return without_effect(
            pose_trainer(recipe, caches, streams=streams, start=None, device=CPU, checkpoint=out)
        )

    no_teacher = "distil: has no effect, as the people come without a teacher's heatmaps"
    assert said(_recipe(4), streams=[]) == [no_teacher]
    assert said(_recipe(4), streams=[pack]) == [no_teacher]
    assert said(_recipe(4, distil=0, source_weights={"left": 2.0}), streams=[]) == []
    assert said(_recipe(4, distil=0, source_weights={"lift": 2.0}), streams=[]) == [
        "source_weights: nobody comes from lift; the sources are left, right"
    ]
    np.save(cached / "teacher.npy", np.zeros((len(open_cache(cached)), 17, 64, 48), np.uint8))
    assert said(_recipe(4), streams=[]) == []


@pytest.mark.parametrize(
    ("size_wh", "needed"),
    [((192, 256), None), ((64, 64), "320x320"), ((288, 384), "360x480"), ((384, 384), "480x480")],
)
def test_inputs_that_see_more_than_the_crops_show_are_told(
    cached: Path, tmp_path: Path, size_wh: tuple[int, int], needed: str | None
) -> None:
    phases = (Phase(width=size_wh[0], height=size_wh[1], share=1.0),)
    recipe = _recipe(4, distil=0).model_copy(update={"phases": phases})
    trainer = pose_trainer(recipe, [cached], start=None, device=CPU, checkpoint=tmp_path / "run.pt")
    said = "phases: an input is larger or wider than what crops of 240x320 show; make the cache "
    assert without_effect(trainer) == ([f"{said}with --size {needed}"] if needed else [])


@pytest.mark.parametrize(
    ("crop_wh", "sizes_wh", "others"),
    [
        ((240, 320), [(96, 128), (192, 256)], []),
        ((320, 320), [(192, 256)], ["192x256"]),
        ((320, 320), [(128, 128), (192, 256), (256, 256)], ["192x256"]),
        ((320, 320), [(224, 256)], ["224x256"]),  # for which there are no crops
        ((240, 320), [(64, 96)], ["64x96"]),
        (None, [(96, 128), (192, 256)], []),  # a stream
        (None, [(256, 256)], []),
        (None, [(192, 256), (256, 256)], ["192x256"]),
    ],
)
def test_inputs_of_another_shape_than_the_crops_are_told(
    coco_folder: Path,
    tmp_path: Path,
    crop_wh: tuple[int, int] | None,
    sizes_wh: list[tuple[int, int]],
    others: list[str],
) -> None:
    phases = tuple(Phase(width=width, height=height, share=1.0) for width, height in sizes_wh)
    recipe = _recipe(4, distil=0).model_copy(update={"phases": phases})
    caches = []
    if crop_wh is not None:
        caches = [build_cache(coco_folder, tmp_path / "cache", crop_wh=crop_wh).folder]
    streams = [] if caches else [coco_folder]
    out = tmp_path / "run.pt"
    trainer = pose_trainer(recipe, caches, streams=streams, start=None, device=CPU, checkpoint=out)
    shape = "{}x{}".format(*(crop_wh or (320, 320)))
    said = f"has another shape than crops of {shape}; some people are learned larger or smaller"
    told = without_effect(trainer)
    assert len(told) == len(others)
    for sentence, other in zip(told, others, strict=True):
        assert sentence.startswith(f"phases: an input of {other} {said}")


def test_a_run_that_would_export_what_it_does_not_train_is_refused(
    cached: Path, tmp_path: Path
) -> None:
    coarse = Phase(width=64, height=96, share=0.5, stride=8)
    fine = Phase(width=64, height=96, share=0.5)

    def trainer(*phases: Phase) -> Trainer[Any]:
        recipe = _recipe(4).model_copy(update={"phases": phases})
        out = tmp_path / "run.pt"
        return pose_trainer(recipe, [cached], start=None, device=CPU, checkpoint=out)

    trainer(coarse, fine)
    with pytest.raises(BadRecipe, match=r"phases\.stride: the last phase must have 4"):
        trainer(fine, coarse)


def test_weights_that_leave_nobody_are_refused(
    cached: Path, coco_folder: Path, tmp_path: Path
) -> None:
    nobody = {"left": 0.0, "right": 0.0}
    given: dict[str, Any] = {"start": None, "device": CPU, "checkpoint": tmp_path / "run.pt"}
    with pytest.raises(BadRecipe, match="source_weights: are 0 for all"):
        pose_trainer(_recipe(4, source_weights=nobody), [cached], **given)
    detection = read_recipe(find_recipe("person-detector"))
    assert isinstance(detection, DetectionRecipe)
    detection = detection.model_copy(update={"source_weights": nobody})
    with pytest.raises(BadRecipe, match="source_weights: are 0 for all"):
        detection_trainer(detection, [coco_folder], crops=[], boxes=[], **given)
    pose_trainer(_recipe(4, source_weights={"left": 0.0}), [cached], **given)


def test_broken_cache_is_named(cached: Path) -> None:
    (cached / "joints.npy").write_bytes((cached / "joints.npy").read_bytes()[:200])
    with pytest.raises(BadData, match="cache: not a whole crop cache"):
        open_cache(cached)


def test_best_checkpoint_is_kept_and_curves_are_logged(cached: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    measured = iter([0.1, 0.3, 0.2])
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(12))
    trainer.run(
        save_every_s=0,
        evaluate=lambda network: {"ap": next(measured), "ar": 0.0},
        log=TrainingLog(tmp_path / "log"),
    )
    assert trainer.progress.best_ap == 0.3
    assert load_checkpoint(tmp_path / "run.best.pt")["progress"]["seen"] == 8
    assert load_checkpoint(tmp_path / "run.pt")["progress"]["seen"] == 12
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "log")).Reload()
    points = events.Scalars("evaluation/ap")
    assert [point.step for point in points] == [4, 8, 12]
    assert [point.value for point in points] == pytest.approx([0.1, 0.3, 0.2])
    TrainingLog(tmp_path / "log", seen=8).add({"evaluation/ap": 0.4}, 12)  # after a kill
    points = EventAccumulator(str(tmp_path / "log")).Reload().Scalars("evaluation/ap")
    assert [(point.step, round(point.value, 3)) for point in points] == [
        (4, 0.1),
        (8, 0.3),
        (12, 0.4),
    ]


def test_evaluation_while_training_measures_the_folder(cached: Path, tmp_path: Path) -> None:
    folder = tmp_path / "labelled"
    (folder / "images").mkdir(parents=True)
    (folder / "person_keypoints.json").write_text(json.dumps(made_labels()))
    for index in range(PHOTOS):
        (folder / "images" / f"{index}.png").write_bytes(encoded(index))
    figures = evaluation_on(folder, _recipe(4), COCO_KEYPOINTS)(_TinyNet().eval())
    assert set(figures) == {"ap", "ap50", "ap75", "ar"}
    assert all(0 <= value <= 1 for value in figures.values())
    of_mpii = _recipe(4).model_copy(update={"network": "litedeconv-mpii"})
    with pytest.raises(BadData, match=r"--evaluate: .*litedeconv-mpii has 16 joints; .*--mpii"):
        evaluation_on(folder, of_mpii, MPII_KEYPOINTS)


def test_people_are_cut_out_of_shards_while_training_goes_on(pack: Path, tmp_path: Path) -> None:
    recipe = _recipe(16)
    streamed = StreamedPeople([pack], {}, COCO_KEYPOINTS, torch.device("cpu"), buffer=8)
    trainer = Trainer(
        _TinyNet(),
        recipe,
        PoseTask(streamed, recipe, torch.device("cpu")),
        device=torch.device("cpu"),
        checkpoint=tmp_path / "run.pt",
    )
    assert trainer.run().seen == 16
    people = streamed.take(8, torch.Generator().manual_seed(0))
    assert people.crops.shape == (8, 320, 240, 3)
    for crop, joints in zip(people.crops.numpy(), people.joints.numpy(), strict=True):
        for joint, (x, y, _) in enumerate(np.rint(joints).astype(int)):
            expected = (15 * joint, 255 - 15 * joint, 200)
            assert np.abs(crop[y, x].astype(int) - expected).max() <= 3


def test_stream_of_a_broken_shard_names_it(pack: Path) -> None:
    shard = pack.with_name("pack_0.tar")
    shard.write_bytes(shard.read_bytes()[:3000])
    streamed = StreamedPeople([pack], {}, COCO_KEYPOINTS, torch.device("cpu"), buffer=8)
    with pytest.raises(BadData, match=r"pack_0\.tar"):
        streamed.take(1, torch.Generator())


def test_stream_by_epochs_is_refused(pack: Path, tmp_path: Path) -> None:
    arguments = ["train", "hrnet", "--network", "posefpn-small", "--labels", pack]
    result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "run.pt")])
    assert result.exit_code == 1
    assert "epochs: a stream has no known length" in result.stderr


def test_coarse_phase_trains_all_but_the_finest_join(cached: Path, tmp_path: Path) -> None:
    coarse, fine = (Phase(width=64, height=96, share=1.0, batch=4, stride=s) for s in (8, 4))
    recipe = _recipe(16).model_copy(update={"phases": (coarse, fine)})
    cpu = torch.device("cpu")
    trainer = pose_trainer(
        recipe, [cached], start=None, device=cpu, checkpoint=tmp_path / "coarse.pt"
    )
    batch, _ = trainer.task.draw(0)
    assert batch.targets.shape[2:] == (12, 8)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    for _ in range(2):
        trainer.run(seconds=0)  # one step
    changed = {
        name
        for name, parameter in trainer.network.named_parameters()
        if not torch.equal(before[name], parameter)
    }
    assert any(name.startswith("mix.1.") for name in changed)
    assert "last.weight" in changed
    assert not any(name.startswith("mix.2.") for name in changed)


def test_residual_branches_start_weak_unless_weights_are_given(
    cached: Path, tmp_path: Path
) -> None:
    def network(gain: float, start: Path | None) -> nn.Module:
        told = {"network": "hrnet-w16-small", "residual_start": gain}
        recipe = _recipe(8).model_copy(update=told)
        out = tmp_path / f"{gain}.pt"
        trainer = pose_trainer(recipe, [cached], start=start, device=CPU, checkpoint=out)
        trainer.save()
        return trainer.network

    drawn = network(0.1, None)
    branches = [m.body for m in drawn.modules() if isinstance(m, Residual)]
    assert branches
    for branch in branches:
        *_, last = (m for m in branch.modules() if isinstance(m, nn.BatchNorm2d))
        assert (last.weight == 0.1).all()
    given = network(1.0, tmp_path / "0.1.pt")
    for name, value in drawn.state_dict().items():
        torch.testing.assert_close(given.state_dict()[name], value)


def test_networks_without_coarse_maps_refuse_such_a_phase(cached: Path, tmp_path: Path) -> None:
    coarse = Phase(width=64, height=64, share=1.0, stride=8)
    recipe = _recipe(8).model_copy(update={"phases": (coarse,), "network": "litedeconv"})
    with pytest.raises(BadRecipe, match="stride"):
        pose_trainer(
            recipe, [cached], start=None, device=torch.device("cpu"), checkpoint=tmp_path / "x.pt"
        )
