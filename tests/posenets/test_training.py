"""The loop: learns, resumes after a kill, refuses what is damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from posenets.cli import app
from posenets.networks.posefpn import PoseFPN
from posenets.training.augment import Augmentation
from posenets.training.cache import build_cache, open_cache
from posenets.training.checkpoint import BadCheckpoint, load_checkpoint, load_weights
from posenets.training.loop import Trainer
from posenets.training.pose_task import PoseTask
from posenets.training.recipe import BadRecipe, Phase, PoseRecipe, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "service/posenets/recipes").glob("*.toml"))


class _TinyNet(nn.Sequential):
    """Heatmaps by three convolutions: fast enough to watch it learn."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.BatchNorm2d(16), nn.Conv2d(16, 17, 3, padding=1)
        )


def _recipe(examples: int) -> PoseRecipe:
    return PoseRecipe(
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
    cpu = torch.device("cpu")
    task = PoseTask([open_cache(folder)], recipe, cpu)
    return Trainer(_TinyNet(), recipe, task, device=cpu, checkpoint=checkpoint)


@pytest.fixture
def cached(coco_folder: Path, tmp_path: Path) -> Path:
    build_cache(coco_folder, tmp_path / "cache")
    return tmp_path / "cache"


def test_loss_falls_and_the_last_checkpoint_is_whole(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(160))
    batch, _ = trainer.task.draw(0)
    before = float(trainer.task.loss(trainer.network, batch).detach())
    trainer.run()
    after = float(trainer.task.loss(trainer.network, batch).detach())
    assert after < 0.7 * before
    assert load_checkpoint(tmp_path / "run.pt")["progress"]["seen"] == 160


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


def test_kill_while_writing_leaves_the_former_checkpoint(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(4))
    trainer.run()
    (tmp_path / "run.pt.part").write_bytes((tmp_path / "run.pt").read_bytes()[:1000])
    assert _trainer(cached, tmp_path / "run.pt", _recipe(4)).resume()


def test_damaged_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"not a checkpoint")
    with pytest.raises(BadCheckpoint, match="damaged"):
        load_checkpoint(damaged)
    foreign = tmp_path / "foreign.pt"
    torch.save({"ema": {"other.weight": torch.zeros(1)}}, foreign)
    with pytest.raises(BadCheckpoint, match=r"foreign\.pt: does not fit PoseFPN"):
        load_weights(PoseFPN(), foreign)


def test_moving_average_follows_the_network(cached: Path, tmp_path: Path) -> None:
    trainer = _trainer(cached, tmp_path / "run.pt", _recipe(40))
    start = {n: p.clone() for n, p in trainer.ema.named_parameters()}
    trainer.run()
    moved = [not torch.equal(p, start[n]) for n, p in trainer.ema.named_parameters()]
    assert np.mean(moved) > 0.95


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.phase_at(0) == recipe.phases[0]
    assert recipe.phase_at(recipe.examples) == recipe.phases[-1]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("lerning_rate = 1e-3", "lerning_rate"),  # unknown key
        ("learning_rate = -1.0", "learning_rate"),  # out of range
        ('weighting = "cube"', "weighting"),  # not one of the five
        ("broken", "recipe.toml"),  # not TOML at all
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


def test_command_line_reports_a_bad_recipe_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(tmp_path / "no.toml"), "--out", "run.pt"])
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "no.toml" in result.stderr
