"""The command that measures networks on labelled photos: `posenets evaluate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from posegate.catalog import Catalog, Model, load_catalog
from posegate.errors import PosegateError
from posenets.cli_errors import or_exit
from posenets.evaluation.measure import Conditions, measure_network
from posenets.evaluation.report import write_report
from posenets.evaluation.scenes import coco_scenes, mpii_scenes, with_boxes
from posenets.evaluation.untrained import not_trained
from posenets.evaluation.worst import draw_worst
from posenets.training.records import BadData

_console = Console()


def evaluate_command(
    repository: Annotated[Path, typer.Option(help="model repository")],
    out: Annotated[Path, typer.Option(help="folder to write the report into")],
    model: Annotated[list[str] | None, typer.Option(help="networks; else all for poses")] = None,
    data: Annotated[Path | None, typer.Option(help="COCO-form folder or label file")] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="detector's boxes, COCO results file; else the true ones")
    ] = None,
    mpii: Annotated[Path | None, typer.Option(help="MPII labels, .mat or .json")] = None,
    heads: Annotated[Path | None, typer.Option(help="gt_valid.mat beside MPII's .json")] = None,
    flip_test: Annotated[bool, typer.Option("--flip-test", help="average with mirrored")] = False,
    decode: Annotated[
        Literal["dark", "quarter", "argmax"], typer.Option(help="how a heatmap is read")
    ] = "dark",
    worst: Annotated[int, typer.Option(min=0, help="people to draw per network")] = 6,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the network")] = 2,
) -> None:
    """Measure networks: COCO's ten figures, OKS and PCKh per joint, latency; report and plot.

    Networks without weights in the repository are named with their size.

    Example: `posenets evaluate --repository model_repository --data coco_val --out report`
    """

    def run() -> list[Path]:
        if data is None and mpii is None:
            raise BadData("nothing to look at: give --data, --mpii or both")
        coco = None if data is None else coco_scenes(data)
        if coco is not None and boxes is not None:
            coco = with_boxes(coco[0], boxes), coco[1]
        mpii_photos = None if mpii is None else mpii_scenes(mpii, heads=heads)
        source = "truth" if boxes is None else f"detector ({boxes.name})"
        conditions = Conditions(source, flip_test, decode, threads)
        measured, pictures = [], {}
        networks = _networks(repository)
        for chosen in _chosen(networks, model):
            looked = measure_network(chosen, coco=coco, mpii=mpii_photos, conditions=conditions)
            measured.append(looked.measured)
            if coco is not None and looked.people_oks is not None and worst:
                picture = draw_worst(coco[0], looked.found, looked.people_oks, count=worst)
                if picture is not None:
                    pictures[chosen.name] = picture
        said = {}
        if coco is not None and data is not None:
            people = sum(len(scene.boxes_xywh) for scene in coco[0])
            said["COCO form"] = f"{data.name}, {len(coco[0])} photos, {people} boxes"
        if mpii_photos is not None and mpii is not None:
            said["MPII"] = f"{mpii.name}, {len(mpii_photos)} photos"
        return write_report(
            out,
            measured,
            data=said,
            conditions=conditions,
            worst=pictures,
            untrained=not_trained(networks.models.values()),
        )

    for path in or_exit(run):
        _console.print(path, soft_wrap=True)


def _networks(repository: Path) -> Catalog:
    try:
        return load_catalog(repository)
    except PosegateError as error:
        raise BadData(error.detail) from error


def _chosen(networks: Catalog, names: list[str] | None) -> list[Model]:
    """The networks of these names, else all for poses."""
    try:
        if names:
            return [networks.get(name, "pose") for name in names]
    except PosegateError as error:
        raise BadData(error.detail) from error
    return [model for model in networks.models.values() if model.card.task == "pose"]
