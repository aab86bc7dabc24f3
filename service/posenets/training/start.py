"""From a recipe and the command line's paths to a trainer that is ready to run."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from posegate.skeleton import COCO_KEYPOINTS
from posenets.networks import NETWORKS, build_network
from posenets.networks.blocks import weaken_residuals
from posenets.networks.nam import nam_scales
from posenets.networks.person_detector import PersonDetector
from posenets.networks.posefpn import PoseFPN
from posenets.training.augment import HEATMAP_STRIDE
from posenets.training.box_teacher import add_teacher_boxes
from posenets.training.cache import open_cache
from posenets.training.detection_data import DetectionData, Photo, read_photos
from posenets.training.detection_task import DetectionTask
from posenets.training.loop import Trainer
from posenets.training.people import KNOWN_JOINTS, read_people
from posenets.training.pose_data import CachedPeople, StreamedPeople, crop_wh_for
from posenets.training.pose_task import PoseTask
from posenets.training.recipe import (
    RECIPE,
    SIDE_STEP,
    BadRecipe,
    DetectionRecipe,
    PoseRecipe,
    first_fault,
)
from posenets.training.records import BadData
from posenets.training.start_weights import joints_of, start_from

DETECTOR = "person-detector"
_CALIBRATION_PICTURES = 32


def make_network(
    name: str, size_wh: tuple[int, int] | None = None, joints: int | None = None
) -> nn.Module:
    """A network of the table, or the person detector, with random weights; raises BadRecipe."""
    try:
        return PersonDetector() if name == DETECTOR else build_network(name, joints, size_wh)
    except ValueError as error:
        raise BadRecipe(f"network: {error}") from error


def with_network(recipe: PoseRecipe | DetectionRecipe, name: str) -> PoseRecipe | DetectionRecipe:
    """The recipe for another network of the table; raises BadRecipe.

    Its phases grow or shrink as the inputs of the two networks in the table do.
    """
    told = recipe.model_dump() | {"network": name}
    if name in NETWORKS and recipe.network in NETWORKS:
        before, after = NETWORKS[recipe.network].size_wh, NETWORKS[name].size_wh
        for phase in told["phases"]:
            for side, old, new in zip(("width", "height"), before, after, strict=True):
                phase[side] = SIDE_STEP * math.ceil(phase[side] * new / old / SIDE_STEP)
    try:
        return RECIPE.validate_python(told)
    except ValidationError as error:
        raise BadRecipe(first_fault(error)) from error


def pose_trainer(
    recipe: PoseRecipe,
    caches: list[Path],
    *,
    streams: Sequence[Path] = (),
    joints: tuple[str, ...] | None = None,
    start: Path | None,
    device: torch.device,
    checkpoint: Path,
    amp: bool | None = None,
) -> Trainer[Any]:
    """Trainer of a heatmap network on cached crops, or on the label files of `streams`.

    It draws the joints of the caches, or `joints` of the streams, else those of the table.
    `start` is a checkpoint or backbone .npz. The recipe's seed draws the weights too. Raises
    BadData, BadRecipe or BadCheckpoint.
    """
    if recipe.network == DETECTOR:
        raise BadRecipe(f"network: {DETECTOR} draws no heatmaps; its recipes have task = 'detect'")
    opened = [open_cache(folder) for folder in caches]
    told = [] if joints is None else [("--joints", joints)]
    names = _joints_to_learn(recipe.network, [(c.folder, c.joint_names) for c in opened] or told)
    torch.manual_seed(recipe.seed)
    network = make_network(recipe.network, joints=len(names))
    weaken_residuals(network, recipe.residual_start)
    if recipe.sparsity and not nam_scales(network):
        raise BadRecipe(f"sparsity: {recipe.network} has no NAM whose scales it would act on")
    coarse = any(phase.stride != HEATMAP_STRIDE for phase in recipe.phases)
    if coarse and not isinstance(network, PoseFPN):
        raise BadRecipe(f"phases.stride: {recipe.network} has heatmaps of stride 4 only")
    if recipe.phases[-1].stride != HEATMAP_STRIDE:
        raise BadRecipe(
            f"phases.stride: the last phase must have {HEATMAP_STRIDE}, which is what is exported"
        )
    if streams:
        if recipe.epochs:
            raise BadRecipe("epochs: a stream has no known length; give examples, or make a cache")
        for labels in streams:  # each begins, so that a wrong one is told before hours of others
            next(iter(read_people(labels, names)), None)
        crop_wh = crop_wh_for([(phase.width, phase.height) for phase in recipe.phases])
        streamed = StreamedPeople(
            streams, recipe.source_weights, names, device, seed=recipe.seed, crop_wh=crop_wh
        )
        task = PoseTask(streamed, recipe, device)
    else:
        sources = {source for cache in opened for source in cache.sources}
        _need_some([recipe.source_weights.get(source, 1.0) for source in sources])
        recipe = recipe.for_data(sum(len(cache) for cache in opened))
        task = PoseTask(opened, recipe, device)
    start_from(network, start, lambda: task.draw(0)[0].images, recipe, joints=names)
    return Trainer(
        network,
        recipe,
        task,
        device=device,
        checkpoint=checkpoint,
        amp=amp,
        joints=names,
    )


def without_effect(trainer: Trainer[Any]) -> list[str]:
    """What a pose recipe asks for and its people cannot give, a sentence each."""
    task = trainer.task
    if not isinstance(task, PoseTask):
        return []
    said = []
    cached = task.people if isinstance(task.people, CachedPeople) else None
    if task.recipe.distil and not (cached and cached.has_teacher):
        said.append("distil: has no effect, as the people come without a teacher's heatmaps")
    sizes_wh = [(phase.width, phase.height) for phase in task.recipe.phases]
    had, needed = task.people.crop_wh, crop_wh_for(sizes_wh)
    lacking = any(ours < least for ours, least in zip(had, needed, strict=True))
    said += _of_other_shapes(sizes_wh, needed if lacking else had)
    if cached is not None:
        if lacking:
            said.append(
                "phases: an input is larger or wider than what crops of {}x{} show; make the cache "
                "with --size {}x{}".format(*had, *needed)
            )
        sources = {source for cache in cached.caches for source in cache.sources}
        absent = ", ".join(sorted(task.recipe.source_weights.keys() - sources))
        if absent:
            said.append(
                f"source_weights: nobody comes from {absent}; the sources are "
                f"{', '.join(sorted(sources))}"
            )
    return said


def _of_other_shapes(sizes_wh: Sequence[tuple[int, int]], crop_wh: tuple[int, int]) -> list[str]:
    """A sentence for each input whose shape is not the crops', but for the rounding of a pixel."""
    others = [
        "{}x{}".format(*size_wh)
        for size_wh in dict.fromkeys(sizes_wh)
        if abs(size_wh[0] - size_wh[1] * crop_wh[0] / crop_wh[1]) > 1
    ]
    return [
        f"phases: an input of {other} has another shape than crops of {crop_wh[0]}x{crop_wh[1]}; "
        "some people are learned larger or smaller than it will see them; take inputs of one "
        "shape, 3:4 or square, and crops of the same (posenets cache --size)"
        for other in others
    ]


def _need_some(chances: Iterable[float]) -> None:
    """Raises BadRecipe where nothing can be drawn."""
    if not any(chance > 0 for chance in chances):
        raise BadRecipe("source_weights: are 0 for all that there is to learn from")


def _joints_to_learn(
    network: str, sources: Sequence[tuple[object, tuple[str, ...]]]
) -> tuple[str, ...]:
    """The joints of all sources, (place, joints) each; without any those of the network's table.

    Raises BadData where they are not the same, or are COCO's and the network is made for MPII's.
    """
    wanted, whose = joints_of(network), network
    if sources and (wanted == COCO_KEYPOINTS or sources[0][1] not in KNOWN_JOINTS.values()):
        wanted, whose = sources[0][1], str(sources[0][0])
    for place, names in sources:
        if names != wanted:
            raise BadData(
                f"{place}: its {len(names)} joints are not the {len(wanted)} of {whose}; see "
                "posenets cache --joints"
            )
    return wanted


def detection_trainer(
    recipe: DetectionRecipe,
    labels: list[Path],
    *,
    crops: list[Path],
    boxes: list[Path],
    start: Path | None,
    device: torch.device,
    checkpoint: Path,
    amp: bool | None = None,
) -> Trainer[Any]:
    """Trainer of the person detector.

    `labels` name every person of their photos, `crops` only one each; `boxes` are the teacher's,
    in the same order as labels and crops together, or none. The recipe's seed draws the weights
    too. Raises BadData, BadRecipe or BadCheckpoint.
    """
    if recipe.network != DETECTOR:
        raise BadRecipe(f"network: {recipe.network} finds no boxes; {DETECTOR} does")
    if boxes and len(boxes) != len(labels) + len(crops):
        raise BadData(
            f"{len(boxes)} files of teacher boxes for {len(labels) + len(crops)} of labels; give "
            "one for each, or none"
        )
    photos: list[Photo] = []
    for index, path in enumerate([*labels, *crops]):
        read = read_photos(path, source_weights=recipe.source_weights)
        if boxes:
            read = add_teacher_boxes(read, boxes[index], complete=index < len(labels))
        share = 1.0 if index < len(labels) else recipe.crop_share
        photos += [replace(photo, weight=photo.weight * share) for photo in read.values()]
    if not photos:
        raise BadData(f"{', '.join(map(str, [*labels, *crops]))}: name no photo to learn from")
    _need_some(photo.weight for photo in photos)
    recipe = recipe.for_data(len(photos))
    torch.manual_seed(recipe.seed)
    network = make_network(recipe.network)
    data = DetectionData(photos, mosaic=recipe.mosaic, seed=recipe.seed)
    task = DetectionTask(data, recipe, device)
    size = recipe.phases[-1].width
    start_from(network, start, lambda: data.batch(_CALIBRATION_PICTURES, size).images, recipe)
    return Trainer(network, recipe, task, device=device, checkpoint=checkpoint, amp=amp)
