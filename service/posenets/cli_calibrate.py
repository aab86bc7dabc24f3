"""The command that makes the detector's scores chances: `posenets calibrate`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from posenets.cli_errors import or_exit
from posenets.evaluation.calibrate import calibrate_detector
from posenets.networks.person_detector import PersonDetector
from posenets.training.box_teacher import add_teacher_boxes
from posenets.training.checkpoint import (
    BadCheckpoint,
    fit_weights,
    load_checkpoint,
    recipe_in,
    save_checkpoint,
    weights_in,
)
from posenets.training.detection_data import Photo, read_photos
from posenets.training.recipe import DetectionRecipe
from posenets.training.records import BadData


def calibrate_command(
    checkpoint: Annotated[Path, typer.Argument(exists=True, help="detector's checkpoint")],
    photos: Annotated[Path, typer.Option(exists=True, help="complete labels")],
    boxes: Annotated[Path | None, typer.Option(exists=True, help="teacher boxes")] = None,
) -> None:
    """Fit the detector's scores to the chance that a box is right; kept in the checkpoint.

    Example: `posenets calibrate runs/detector.pt --photos data/detect_train.json`
    """
    typer.echo(or_exit(lambda: _calibrate(checkpoint, photos, boxes)))


def _calibrate(checkpoint: Path, photos: Path, boxes: Path | None) -> str:
    state = load_checkpoint(checkpoint)
    recipe = recipe_in(state, checkpoint)
    if not isinstance(recipe, DetectionRecipe):
        raise BadCheckpoint(f"{checkpoint}: holds {recipe.network}, not the person detector")
    network = PersonDetector()
    fit_weights(network, weights_in(state, checkpoint), checkpoint)
    labelled = _with_people(photos, boxes)
    fitted, count = calibrate_detector(network, labelled, recipe)
    if not count:
        raise BadData(f"{photos}: the detector finds no box in its photos; there is nothing to fit")
    if not fitted.slope > 0:
        raise BadData(
            f"{photos}: of the {count} boxes that the detector finds in its photos, those with "
            "higher scores are not more often right, so no chance can be fitted; give photos with "
            "more labelled people, or train the detector further"
        )
    save_checkpoint(checkpoint, state | {"calibration": asdict(fitted)})
    return f"{checkpoint}: slope {fitted.slope:.3f}, shift {fitted.shift:.3f} from {count} boxes"


def _with_people(labels: Path, boxes: Path | None) -> list[Photo]:
    photos = read_photos(labels, source_weights={})
    if boxes is not None:
        photos = add_teacher_boxes(photos, boxes, complete=True)
    if not any(len(photo.people) for photo in photos.values()):
        raise BadData(f"{labels}: annotations name no person; there is nothing to fit scores to")
    return list(photos.values())
