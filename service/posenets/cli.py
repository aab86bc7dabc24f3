"""`posenets`: make the weights. Every command shows an example with `--help`."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from rich.console import Console

from posegate.card import Training
from posenets.counting import count_all, render_table
from posenets.evaluation.calibrate import calibrate_detector
from posenets.export.checkpoint import CheckpointExport, export_checkpoint
from posenets.networks.person_detector import PersonDetector
from posenets.training.box_teacher import add_teacher_boxes
from posenets.training.box_teacher import label_boxes as label_boxes_of
from posenets.training.cache import build_cache
from posenets.training.checkpoint import (
    BadCheckpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from posenets.training.detection_data import read_photos
from posenets.training.recipe import RECIPE, BadRecipe, PoseRecipe, read_recipe
from posenets.training.records import BadData
from posenets.training.start import detection_trainer, pose_trainer

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
_console = Console()
T = TypeVar("T")


@app.command()
def cache(
    labels: Annotated[Path, typer.Argument(exists=True, help="labels: COCO, pack, MPII or LSP")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    teacher: Annotated[Path | None, typer.Option(help="heatmap network to ask, ONNX")] = None,
) -> None:
    """Cut every labelled person out of the photos, once, for training.

    Example: `posenets cache data/pose_train.json cache/pose --teacher peer_256x192.onnx`
    """
    people = _or_exit(lambda: build_cache(labels, out, teacher=teacher))
    _console.print(f"{len(people)} people in {out}")


@app.command(name="label-boxes")
def label_boxes(
    labels: Annotated[Path, typer.Argument(exists=True, help="COCO label file or pack")],
    teacher: Annotated[Path, typer.Argument(exists=True, help="person detector, ONNX")],
    out: Annotated[Path, typer.Argument(help="JSON file to write")],
    size: Annotated[int, typer.Option(min=64, help="square input, pixels")] = 512,
) -> None:
    """Ask a published detector for the people that the labels leave out.

    Example: `posenets label-boxes data/pose_train.json rtmdet_nano.onnx pose_boxes.json`
    """
    found = _or_exit(lambda: label_boxes_of(labels, teacher, out, size=size))
    _console.print(f"{found} boxes in {out}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="recipe, TOML")],
    out: Annotated[Path, typer.Option(help="checkpoint to write and to resume from")],
    cache: Annotated[list[Path] | None, typer.Option(help="pose: folders of `cache`")] = None,
    photos: Annotated[list[Path] | None, typer.Option(help="detector: complete labels")] = None,
    crops: Annotated[list[Path] | None, typer.Option(help="detector: one box a photo")] = None,
    boxes: Annotated[list[Path] | None, typer.Option(help="detector: teacher boxes")] = None,
    start: Annotated[Path | None, typer.Option(help="checkpoint or backbone .npz")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, 0 = all")] = 0,
    seconds: Annotated[float, typer.Option(help="stop after that long")] = float("inf"),
) -> None:
    """Train a network by a recipe; a killed run goes on from its last checkpoint.

    Example: `posenets train service/posenets/recipes/posefpn-small.toml --cache cache/pose
    --out runs/posefpn.pt`
    """
    if threads:
        torch.set_num_threads(threads)

    def run() -> None:
        plan = read_recipe(recipe)
        where = torch.device(device)
        if isinstance(plan, PoseRecipe):
            if not cache:
                raise BadData("a pose recipe needs at least one --cache folder")
            trainer = pose_trainer(plan, cache, start=start, device=where, checkpoint=out)
        else:
            if not photos:
                raise BadData("a detection recipe needs at least one --photos label file")
            trainer = detection_trainer(
                plan,
                photos,
                crops=crops or [],
                boxes=boxes or [],
                start=start,
                device=where,
                checkpoint=out,
            )
        if trainer.resume():
            _console.print(f"resumed {out} after {trainer.progress.seen} examples")
        trainer.run(seconds=seconds, console=_console)

    out.parent.mkdir(parents=True, exist_ok=True)
    _or_exit(run)


@app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(exists=True, help="detector's checkpoint")],
    photos: Annotated[Path, typer.Option(exists=True, help="complete labels")],
    boxes: Annotated[Path | None, typer.Option(exists=True, help="teacher boxes")] = None,
) -> None:
    """Fit the detector's scores to the chance that a box is right; kept in the checkpoint.

    Example: `posenets calibrate runs/detector.pt --photos data/detect_train.json`
    """

    def run() -> str:
        state = load_checkpoint(checkpoint)
        recipe = RECIPE.validate_json(state["recipe"])
        network = PersonDetector()
        load_weights(network, checkpoint)
        labelled = read_photos(photos, source_weights={})
        if boxes is not None:
            labelled = add_teacher_boxes(labelled, boxes, complete=True)
        fitted, count = calibrate_detector(network, labelled.values(), recipe)
        save_checkpoint(checkpoint, state | {"calibration": asdict(fitted)})
        return f"{fitted} from {count} boxes"

    _console.print(_or_exit(run))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(exists=True, help="checkpoint of `train`")],
    repository: Annotated[Path, typer.Option(help="model repository to write into")],
    name: Annotated[str, typer.Option(help="name of the model")],
    about: Annotated[Path, typer.Option(exists=True, help="training facts for the card, JSON")],
) -> None:
    """Write the network as ONNX with its card into a model repository, and prove them equal.

    Example: `posenets export runs/posefpn.pt --repository model_repository
    --name posefpn-small-256x192 --about posefpn.json`
    """
    facts = json.loads(about.read_text())
    description = facts.pop("description", "")
    job = CheckpointExport(checkpoint, repository, name, description, Training(**facts))
    difference = _or_exit(lambda: export_checkpoint(job))
    _console.print(f"{repository / name}: ONNX differs from torch by {difference:.1e} of the range")


@app.command()
def count(
    as_json: Annotated[bool, typer.Option("--json", help="a list of objects")] = False,
) -> None:
    """Parameters and GFLOPs of every network beside its paper's.

    Example: `posenets count --json`
    """
    counts = count_all()
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in counts], indent=2))
    else:
        _console.print(render_table(counts))


def _or_exit(work: Callable[[], T]) -> T:
    """Run, or say what was wrong with the user's files and exit with 1."""
    try:
        return work()
    except (BadData, BadRecipe, BadCheckpoint) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
