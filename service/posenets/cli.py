"""`posenets`: make the weights. Every command shows an example with `--help`."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from posegate.tables import print_table
from posegate.version import installed_version
from posenets.cli_calibrate import calibrate_command
from posenets.cli_errors import or_exit
from posenets.cli_evaluate import evaluate_command
from posenets.cli_export import compare_command, export_command, export_decoded_command
from posenets.cli_train import train_command
from posenets.counting import count_all, table_rows
from posenets.training.box_teacher import label_boxes as label_boxes_of
from posenets.training.cache import MIN_SIDE, build_cache
from posenets.training.people import Joints, joints_asked_for, mirrored_joints
from posenets.training.records import BadData

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("calibrate")(calibrate_command)
app.command("export")(export_command)
app.command("export-decoded")(export_decoded_command)
app.command("compare")(compare_command)
_console = Console(markup=False)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"posenets {installed_version()}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="show the version"),
    ] = False,
) -> None:
    """Make the weights: train, measure and export networks."""


@app.command()
def cache(
    labels: Annotated[Path, typer.Argument(exists=True, help="labels: COCO, pack, MPII or LSP")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    teacher: Annotated[Path | None, typer.Option(help="heatmap network to ask, ONNX")] = None,
    joints: Annotated[
        Joints, typer.Option(help="17, 16, or own: those that a COCO file's categories name")
    ] = "coco",
    size: Annotated[
        str, typer.Option(metavar="WxH", help="pixels of a crop, 5/4 of the largest input or more")
    ] = "240x320",
    min_side: Annotated[
        float, typer.Option(min=0, help="pixels of a box's longer side; smaller people stay out")
    ] = MIN_SIDE,
) -> None:
    """Cut every labelled person out of the photos, once, for training.

    Example: `posenets cache data/pose_train.json cache/pose --teacher peer_256x192.onnx`
    """
    people = or_exit(
        lambda: build_cache(
            labels,
            out,
            teacher=teacher,
            joint_names=joints_asked_for(joints, labels),
            crop_wh=_sides(size),
            min_side=min_side,
        )
    )
    small = f"; {people.left_out} too small (--min-side)" if people.left_out else ""
    _console.print(f"{len(people)} people in {out}{small}", soft_wrap=True)
    if joints == "own":
        _console.print(mirrored_joints(people.joint_names), soft_wrap=True)


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
    found = or_exit(lambda: label_boxes_of(labels, teacher, out, size=size))
    _console.print(f"{found} boxes in {out}", soft_wrap=True)


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
        print_table("parameters and operations beside the papers'", table_rows(counts))


def _sides(size: str) -> tuple[int, int]:
    sides = re.fullmatch(r"(\d+)x(\d+)", size)
    if sides is None:
        raise BadData(f"--size: {size!r} is not WxH, as 240x320")
    return int(sides[1]), int(sides[2])
