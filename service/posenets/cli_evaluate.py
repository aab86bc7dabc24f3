"""The command that measures networks on labelled photos: `posenets evaluate`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Literal

import typer
from rich.console import Console

from posegate.catalog import Catalog, Model, load_catalog
from posenets.cli_errors import or_exit
from posenets.evaluation.measure import Conditions, measure_network, misfits
from posenets.evaluation.report import write_report
from posenets.evaluation.scenes import coco_scenes, is_mpii_release, mpii_scenes, with_boxes
from posenets.evaluation.untrained import not_trained
from posenets.evaluation.worst import draw_worst
from posenets.training.records import BadData

_console = Console(markup=False)


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
        _check_options(data=data, boxes=boxes, mpii=mpii, heads=heads)
        networks = load_catalog(repository)
        chosen = _chosen(networks, model)
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):  # told before the measuring, which takes long
            pass
        notes = _left_out(chosen, {"--data": data, "--mpii": mpii}, named=bool(model))
        said = {}
        coco = None if data is None else coco_scenes(data)
        if coco is not None and data is not None:
            if boxes is not None:
                coco = with_boxes(coco[0], boxes), coco[1]
            people = sum(len(scene.boxes_xywh) for scene in coco[0])
            said["COCO form"] = f"{data.name}, {len(coco[0])} photos, {people} boxes"
        mpii_photos = None if mpii is None else mpii_scenes(mpii, heads=heads)
        if mpii_photos is not None and mpii is not None:
            said["MPII"] = f"{mpii.name}, {len(mpii_photos)} photos"
            if is_mpii_release(mpii):
                notes.append(
                    f"The photos of {mpii.name} are MPII's training images, the only ones whose "
                    "joints are published; a network trained on MPII has seen these people."
                )
        for note in notes:
            _console.print(note, soft_wrap=True)
        conditions = Conditions(_boxes_used(boxes, mpii), flip_test, decode, threads)
        measured, pictures = [], {}
        for network in chosen:
            unfit = misfits(network)
            looked = measure_network(
                network,
                coco=None if "--data" in unfit else coco,
                mpii=None if "--mpii" in unfit else mpii_photos,
                conditions=conditions,
            )
            measured.append(looked.measured)
            if coco is not None and looked.people_oks is not None and worst:
                picture = draw_worst(coco[0], looked.found, looked.people_oks, count=worst)
                if picture is not None:
                    pictures[network.name] = picture
        return write_report(
            out,
            measured,
            data=said,
            notes=notes,
            conditions=conditions,
            worst=pictures,
            untrained=not_trained(networks.models.values()),
        )

    for path in or_exit(run):
        _console.print(path, soft_wrap=True)


def _check_options(
    *, data: Path | None, boxes: Path | None, mpii: Path | None, heads: Path | None
) -> None:
    if data is None and mpii is None:
        raise BadData("nothing to look at: give --data, --mpii or both")
    if boxes is not None and data is None:
        raise BadData("--boxes are for the photos of --data; give --data or leave --boxes out")
    if heads is not None and mpii is None:
        raise BadData("--heads are for the people of --mpii; give --mpii or leave --heads out")


def _left_out(
    chosen: Sequence[Model], labels: Mapping[str, Path | None], *, named: bool
) -> list[str]:
    """Sentences on networks whose joints are not those of labels; BadData where they are `named`.

    `labels` maps an option to its file, None where it is not given.
    """
    notes = []
    for network in chosen:
        for option, reason in misfits(network).items():
            if labels[option] is None:
                continue
            if named:
                measured = f"posegate evaluate --data PHOTOS --model {network.name}"
                own = f", or measure it by {measured}" if option == "--data" else ""
                raise BadData(f"{reason}; leave {option} out{own}")
            notes.append(f"{reason}, so it is not measured with {option}.")
    return notes


def _boxes_used(boxes: Path | None, mpii: Path | None) -> str:
    """What the report says of the boxes; a detector's are for COCO form alone."""
    if boxes is None:
        return "truth"
    return f"detector ({boxes.name})" + ("" if mpii is None else " in COCO form, truth in MPII")


def _chosen(networks: Catalog, names: list[str] | None) -> list[Model]:
    """The networks of these names, else all for poses."""
    if names:
        return [networks.get(name, "pose") for name in names]
    return [model for model in networks.models.values() if model.card.task == "pose"]
