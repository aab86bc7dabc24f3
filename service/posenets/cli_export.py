"""The commands that make and prove files to serve: `posenets export` and `posenets compare`."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from posegate.card import Training
from posegate.catalog import CARD_NAME, Model, load_card
from posenets.cli_errors import or_exit
from posenets.export.calibration import calibration_crops, check_source
from posenets.export.checkpoint import CheckpointExport, export_checkpoint, joints_of_export
from posenets.export.compare import compare_with_torch
from posenets.export.forms import BASE, FORMS, INT8_FORMS, write_form
from posenets.export.in_graph import export_decoded
from posenets.export.published import KNOWN
from posenets.training.checkpoint import load_checkpoint, recipe_in
from posenets.training.recipe import first_fault
from posenets.training.records import BadData

_console = Console(markup=False)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a model card takes for a name."""
_FACTS = f"{', '.join(['description', *Training.model_fields])}; data is a list, the others texts"


def export_command(
    checkpoint: Annotated[
        Path, typer.Argument(exists=True, help="checkpoint of `train`, or a published HRNet's .pth")
    ],
    repository: Annotated[Path, typer.Option(help="model repository to write into")],
    name: Annotated[str | None, typer.Option(help="name of the model; else the network's")] = None,
    about: Annotated[
        Path | None,
        typer.Option(exists=True, help=f"JSON of facts for the card, all optional: {_FACTS}"),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help=f"of a published checkpoint: {', '.join(KNOWN)}")
    ] = None,
    forms: Annotated[str, typer.Option(help=f"comma-separated, of {', '.join(FORMS)}")] = BASE,
    calibrate: Annotated[
        Path | None, typer.Option(help="8-bit forms: crop cache or COCO-form folder")
    ] = None,
    halves: Annotated[
        bool, typer.Option("--halves", help="keep kernels as float16: half the file")
    ] = False,
    in_float: Annotated[
        str, typer.Option("--float", help="8-bit forms: submodules to leave in float, with commas")
    ] = "",
) -> None:
    """Write the network as ONNX with its card into a model repository, and prove them equal.

    Forms other than fp32 go beside it as `NAME-<form>`. With --network the checkpoint is another's
    HRNet, in the names of mmpose or of HRNet's own code; the card names the file and its hash.

    Example: `posenets export runs/goatpose.pt --repository model_repository
    --name goatpose-bl-256x192 --about goatpose.json --forms fp32,int8 --calibrate cache/pose`

    Example: `posenets export runs/lite.pt --repository model_repository --name lite
    --about lite.json --forms fp32,int8 --float backbone --calibrate cache/pose`

    Example: `posenets export td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth
    --network hrnet-w32 --repository model_repository`
    """

    def run() -> None:
        description, training = ("", Training()) if about is None else _facts(about)
        if name is not None and not _NAME.fullmatch(name):
            raise BadData(f"--name: {name!r} is more than letters, digits, '.', '_' and '-'")
        called = name or network or recipe_in(load_checkpoint(checkpoint), checkpoint).network
        if network is not None and not description:
            description = f"{network} with the weights of {checkpoint.name}."
        job = CheckpointExport(
            checkpoint, repository, called, description, training, network, halves
        )
        _export(job, forms.split(","), calibrate, [name for name in in_float.split(",") if name])

    or_exit(run)


def export_decoded_command(
    repository: Annotated[Path, typer.Argument(exists=True, help="model repository")],
) -> None:
    """Write `NAME-decoded`, with the decoding in its graph, beside every heatmap network.

    Example: `posenets export-decoded model_repository`
    """
    for path in or_exit(lambda: export_decoded(repository)):
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
    job: CheckpointExport, forms: list[str], calibrate: Path | None, in_float: list[str]
) -> None:
    """Export the fp32 network, then the other forms that were asked for."""
    _check_forms(forms, calibrate, in_float)
    others = [form for form in forms if form != BASE]
    if others:  # this too before anything is replaced
        joints = joints_of_export(job)
        if joints is None:
            raise BadData("--forms: only pose networks have other forms than fp32")
        if calibrate is not None:
            check_source(calibrate, joints)
    difference = export_checkpoint(job)
    folder = job.repository / job.name
    _console.print(
        f"{folder}: ONNX differs from torch by {difference:.1e} of the range", soft_wrap=True
    )
    for form in set(FORMS) - {BASE, *others}:
        if (job.repository / f"{job.name}-{form}" / CARD_NAME).exists():
            _console.print(
                f"{folder}-{form} is still of the former weights; export it too (--forms), or "
                "remove it",
                soft_wrap=True,
            )
    if not others:
        return
    model = Model(load_card(folder / CARD_NAME), folder)
    crops = None if calibrate is None else calibration_crops(calibrate, model.card)
    for form in others:
        path = write_form(model, form, crops, in_float=in_float)
        _console.print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def _check_forms(forms: list[str], calibrate: Path | None, in_float: list[str]) -> None:
    """Raises BadData for options that do not go together."""
    in_8_bits = set(forms) & set(INT8_FORMS)
    if unknown := set(forms) - set(FORMS):
        raise BadData(f"--forms: {min(unknown)!r} is not one of {', '.join(FORMS)}")
    if calibrate is None and in_8_bits:
        raise BadData("--forms: 8 bits need --calibrate, a crop cache or a COCO-form folder")
    if in_float and not in_8_bits:
        raise BadData("--float: only 8-bit forms leave something in float; name one in --forms")
    if calibrate is not None and not in_8_bits:
        raise BadData("--calibrate: only 8-bit forms are calibrated; name one in --forms")


def _facts(about: Path) -> tuple[str, Training]:
    try:
        facts = json.loads(about.read_text())
        description = str(facts.pop("description", ""))
        return description, Training(**facts)
    except ValidationError as error:
        raise BadData(f"{about}: {first_fault(error)}; the fields are {_FACTS}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise BadData(f"{about}: not training facts ({error})") from error
