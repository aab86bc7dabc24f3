"""The command that trains: `posenets train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from posenets.cli_errors import or_exit
from posenets.evaluation.during import evaluation_on
from posenets.training.log import TrainingLog
from posenets.training.loop import Trainer
from posenets.training.people import Joints, joints_asked_for
from posenets.training.processes import joined
from posenets.training.recipe import (
    BadRecipe,
    DetectionRecipe,
    PoseRecipe,
    find_recipe,
    read_recipe,
)
from posenets.training.records import BadData
from posenets.training.start import (
    detection_trainer,
    pose_trainer,
    with_network,
    without_effect,
)


def train_command(
    recipe: Annotated[str, typer.Argument(help="TOML file, or name of a shipped recipe")],
    out: Annotated[Path, typer.Option(help="checkpoint to write and to resume from")],
    network: Annotated[
        str | None, typer.Option(help="in place of the recipe's own; the phases take its input")
    ] = None,
    cache: Annotated[list[Path] | None, typer.Option(help="pose: folders of `cache`")] = None,
    labels: Annotated[
        list[Path] | None, typer.Option(help="pose: label files or packs, cut up on the way")
    ] = None,
    joints: Annotated[
        Joints | None, typer.Option(help="pose: of --labels, as for `cache`; else the network's")
    ] = None,
    photos: Annotated[list[Path] | None, typer.Option(help="detector: complete labels")] = None,
    crops: Annotated[list[Path] | None, typer.Option(help="detector: one box a photo")] = None,
    boxes: Annotated[list[Path] | None, typer.Option(help="detector: teacher boxes")] = None,
    start: Annotated[Path | None, typer.Option(help="checkpoint or backbone .npz")] = None,
    evaluate: Annotated[
        Path | None, typer.Option(help="pose: COCO-form folder to measure AP on at each save")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="folder for TensorBoard")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    bfloat16: Annotated[
        bool | None,
        typer.Option("--bfloat16/--float32", help="of the network's layers; bfloat16 on a GPU"),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, 0 = all")] = 0,
    seconds: Annotated[float, typer.Option(help="stop after that long")] = float("inf"),
    save_every: Annotated[float, typer.Option(min=0, help="seconds between saves")] = 240,
) -> None:
    """Train a network by a recipe; a killed run goes on from its last checkpoint.

    With --evaluate the checkpoint of the highest AP is kept beside the last, as `.best.pt`.
    Under `torchrun -m -- posenets train` the processes share their gradients.

    Example: `posenets train posefpn-small --cache cache/pose --out runs/posefpn.pt`
    """
    if threads:
        torch.set_num_threads(threads)

    def prepared(where: torch.device) -> tuple[PoseRecipe | DetectionRecipe, Trainer[Any]]:
        path = find_recipe(recipe)
        plan = read_recipe(path)
        try:
            return trainer_of(plan if network is None else with_network(plan, network), where)
        except BadRecipe as error:
            raise BadRecipe(f"{path}: {error}") from error

    def trainer_of(
        plan: PoseRecipe | DetectionRecipe, where: torch.device
    ) -> tuple[PoseRecipe | DetectionRecipe, Trainer[Any]]:
        if isinstance(plan, PoseRecipe):
            told = "a pose recipe learns from --cache or --labels"
            _refuse_any({"--photos": photos, "--crops": crops, "--boxes": boxes}, told)
            if bool(cache) == bool(labels):
                raise BadData(
                    "a pose recipe has one source: give either --cache folders or --labels files"
                )
            if joints is not None and not labels:
                raise BadData("--joints are those of --labels; a cache tells its own")
            return plan, pose_trainer(
                plan,
                cache or [],
                streams=labels or [],
                joints=joints_asked_for(joints, labels[0]) if joints and labels else None,
                start=start,
                device=where,
                checkpoint=out,
                amp=bfloat16,
            )
        if joints is not None:
            raise BadData("--joints: a person detector draws none")
        told = "a detection recipe learns from --photos, --crops and --boxes"
        _refuse_any({"--cache": cache, "--labels": labels}, told)
        if not photos:
            raise BadData("a detection recipe needs at least one --photos label file")
        if evaluate is not None:
            raise BadData("--evaluate measures poses; use posegate evaluate --task boxes")
        return plan, detection_trainer(
            plan,
            photos,
            crops=crops or [],
            boxes=boxes or [],
            start=start,
            device=where,
            checkpoint=out,
            amp=bfloat16,
        )

    def run() -> None:
        check_device(device)
        with joined(device) as where:
            plan, trainer = prepared(where)
            out.parent.mkdir(parents=True, exist_ok=True)
            console = Console(quiet=trainer.rank > 0, markup=False)
            if trainer.resume():
                console.print(
                    f"resumed {out} after {trainer.progress.seen} examples", soft_wrap=True
                )
            for said in without_effect(trainer):
                console.print(said, soft_wrap=True, highlight=False)
            measure = None
            if (
                evaluate is not None
                and trainer.rank == 0
                and isinstance(plan, PoseRecipe)
                and trainer.joints
            ):
                measure = evaluation_on(evaluate, plan, trainer.joints)
            progress = trainer.run(
                seconds=seconds,
                save_every_s=save_every,
                evaluate=measure,
                log=TrainingLog(log, seen=trainer.progress.seen)
                if log is not None and trainer.rank == 0
                else None,
                console=console,
            )
            console.print(
                f"{out}: {progress.seen} examples, {progress.seconds:.0f} s", soft_wrap=True
            )

    or_exit(run)


def _refuse_any(options: Mapping[str, list[Path] | None], told: str) -> None:
    given = [name for name, paths in options.items() if paths]
    if given:
        raise BadData(f"{', '.join(given)}: {told}")


def check_device(name: str) -> None:
    """Raises BadData unless it is the CPU or a GPU that is there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadData(f"--device: {name!r} is neither cpu nor cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BadData(f"--device: {name!r} is neither cpu nor cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadData(f"--device: no GPU for {name!r}; torch finds {torch.cuda.device_count()}")
