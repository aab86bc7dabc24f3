"""The commands that make and prove files to serve: `posenets export` and `posenets compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from posegate.card import Training
from posegate.catalog import CARD_NAME, Model, load_card
from posenets.cli_errors import or_exit
from posenets.export.calibration import calibration_crops
from posenets.export.checkpoint import CheckpointExport, export_checkpoint
from posenets.export.compare import compare_with_torch
from posenets.export.forms import BASE, FORMS, INT8_FORMS, write_form
from posenets.export.in_graph import export_decoded
from posenets.training.records import BadData

_console = Console()


def export_command(
    checkpoint: Annotated[Path, typer.Argument(exists=True, help="checkpoint of `train`")],
    repository: Annotated[Path, typer.Option(help="model repository to write into")],
    name: Annotated[str, typer.Option(help="name of the model")],
    about: Annotated[Path, typer.Option(exists=True, help="training facts for the card, JSON")],
    forms: Annotated[str, typer.Option(help=f"comma-separated, of {', '.join(FORMS)}")] = BASE,
    calibrate: Annotated[
        Path | None, typer.Option(help="8-bit forms: crop cache or COCO-form folder")
    ] = None,
) -> None:
    """Write the network as ONNX with its card into a model repository, and prove them equal.

    Forms other than fp32 go beside it as `NAME-<form>`.

    Example: `posenets export runs/goatpose.pt --repository model_repository
    --name goatpose-bl-256x192 --about goatpose.json --forms fp32,int8 --calibrate cache/pose`
    """
    or_exit(lambda: _export(checkpoint, repository, name, about, forms.split(","), calibrate))


def export_decoded_command(
    repository: Annotated[Path, typer.Argument(exists=True, help="model repository")],
) -> None:
    """Write `NAME-decoded`, with the decoding in its graph, beside every heatmap network.

    Example: `posenets export-decoded model_repository`
    """
    for path in export_decoded(repository):
        typer.echo(path)


def compare_command(
    folder: Annotated[Path, typer.Argument(exists=True, help="a model's folder in the repository")],
    as_json: Annotated[bool, typer.Option("--json", help="an object")] = False,
) -> None:
    """Compare a model's ONNX file with the weights that lie beside it, as a share of the range.

    Example: `posenets compare model_repository/posefpn-small-256x192`
    """
    difference = or_exit(lambda: compare_with_torch(folder))
    if as_json:
        typer.echo(json.dumps({"max_abs_diff": difference}))
    else:
        _console.print(
            f"{folder}: ONNX differs from torch by {difference:.1e} of the range", soft_wrap=True
        )


def _export(
    checkpoint: Path,
    repository: Path,
    name: str,
    about: Path,
    forms: list[str],
    calibrate: Path | None,
) -> None:
    if unknown := set(forms) - set(FORMS):
        raise BadData(f"--forms: {sorted(unknown)[0]!r} is not one of {', '.join(FORMS)}")
    if calibrate is None and set(forms) & set(INT8_FORMS):
        raise BadData("--forms: 8 bits need --calibrate, a crop cache or a COCO-form folder")
    job = CheckpointExport(checkpoint, repository, name, *_facts(about))
    difference = export_checkpoint(job)
    folder = repository / name
    _console.print(
        f"{folder}: ONNX differs from torch by {difference:.1e} of the range", soft_wrap=True
    )
    others = [form for form in forms if form != BASE]
    if not others:
        return
    model = Model(load_card(folder / CARD_NAME), folder)
    if model.card.task != "pose":
        raise BadData("--forms: only pose networks have other forms than fp32")
    crops = None if calibrate is None else calibration_crops(calibrate, model.card)
    for form in others:
        path = write_form(model, form, crops)
        _console.print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def _facts(about: Path) -> tuple[str, Training]:
    try:
        facts = json.loads(about.read_text())
        description = str(facts.pop("description", ""))
        return description, Training(**facts)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadData(f"{about}: not training facts ({error})") from error
