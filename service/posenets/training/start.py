"""From a recipe and the command line's paths to a trainer that is ready to run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posegate.skeleton import COCO_KEYPOINTS
from posenets.networks import NETWORKS, build_network
from posenets.networks.mobilenetv3_small import MobileNetV3Small, load_folded_weights
from posenets.networks.nam import nam_scales
from posenets.networks.person_detector import PersonDetector
from posenets.networks.posefpn import PoseFPN
from posenets.training.augment import HEATMAP_STRIDE
from posenets.training.box_teacher import add_teacher_boxes
from posenets.training.cache import CropCache, open_cache
from posenets.training.checkpoint import load_weights
from posenets.training.detection_data import DetectionData, Photo, read_photos
from posenets.training.detection_task import DetectionTask
from posenets.training.loop import Trainer
from posenets.training.mpii import MPII_KEYPOINTS
from posenets.training.pose_data import StreamedPeople
from posenets.training.pose_task import PoseTask
from posenets.training.recipe import BadRecipe, DetectionRecipe, PoseRecipe, Recipe
from posenets.training.records import BadData

DETECTOR = "person-detector"
_CALIBRATION_PICTURES = 32


def make_network(name: str, size_wh: tuple[int, int] | None = None) -> nn.Module:
    """A network of the table, or the person detector, with random weights; raises BadRecipe."""
    try:
        return PersonDetector() if name == DETECTOR else build_network(name, size_wh=size_wh)
    except ValueError as error:
        raise BadRecipe(f"network: {error}") from error


def joints_of(name: str) -> tuple[str, ...]:
    """The joints that a network of the table is made for, by their number."""
    return {len(names): names for names in (COCO_KEYPOINTS, MPII_KEYPOINTS)}[NETWORKS[name].joints]


def pose_trainer(
    recipe: PoseRecipe,
    caches: list[Path],
    *,
    streams: Sequence[Path] = (),
    start: Path | None,
    device: torch.device,
    checkpoint: Path,
) -> Trainer[Any]:
    """Trainer of a heatmap network on cached crops, or on the label files of `streams`.

    `start` is a checkpoint or backbone .npz. Raises BadData or BadRecipe.
    """
    network = make_network(recipe.network)
    if recipe.sparsity and not nam_scales(network):
        raise BadRecipe(f"sparsity: {recipe.network} has no NAM whose scales it would act on")
    coarse = any(phase.stride != HEATMAP_STRIDE for phase in recipe.phases)
    if coarse and not isinstance(network, PoseFPN):
        raise BadRecipe(f"phases.stride: {recipe.network} has heatmaps of stride 4 only")
    names = joints_of(recipe.network)
    if streams:
        if recipe.epochs:
            raise BadRecipe("epochs: a stream has no known length; give examples, or make a cache")
        streamed = StreamedPeople(streams, recipe.source_weights, names, device, seed=recipe.seed)
        task = PoseTask(streamed, recipe, device)
    else:
        opened = _open_caches(caches, names, recipe.network)
        recipe = recipe.for_data(sum(len(cache) for cache in opened))
        task = PoseTask(opened, recipe, device)
    _start_from(network, start, lambda: task.draw(0)[0].images, recipe)
    return Trainer(
        network, recipe, task, device=device, checkpoint=checkpoint, amp=device.type == "cuda"
    )


def _open_caches(folders: list[Path], names: tuple[str, ...], network: str) -> list[CropCache]:
    opened = [open_cache(folder) for folder in folders]
    for folder, cache in zip(folders, opened, strict=True):
        if cache.joint_names != names:
            raise BadData(
                f"{folder}: its {len(cache.joint_names)} joints are not the {len(names)} of "
                f"{network}; see posenets cache --joints"
            )
    return opened


def detection_trainer(
    recipe: DetectionRecipe,
    labels: list[Path],
    *,
    crops: list[Path],
    boxes: list[Path],
    start: Path | None,
    device: torch.device,
    checkpoint: Path,
) -> Trainer[Any]:
    """Trainer of the person detector.

    `labels` name every person of their photos, `crops` only one each; `boxes` are the teacher's,
    in the same order as labels and crops together, or none.
    """
    photos: list[Photo] = []
    for index, path in enumerate([*labels, *crops]):
        read = read_photos(path, source_weights=recipe.source_weights)
        if boxes:
            read = add_teacher_boxes(read, boxes[index], complete=index < len(labels))
        share = 1.0 if index < len(labels) else recipe.crop_share
        photos += [Photo(p.jpeg, p.people, p.ignored, p.weight * share) for p in read.values()]
    recipe = recipe.for_data(len(photos))
    network = make_network(recipe.network)
    data = DetectionData(photos, mosaic=recipe.mosaic, seed=recipe.seed)
    task = DetectionTask(data, recipe, device)
    size = recipe.phases[-1].width
    _start_from(network, start, lambda: data.batch(_CALIBRATION_PICTURES, size).images, recipe)
    return Trainer(
        network, recipe, task, device=device, checkpoint=checkpoint, amp=device.type == "cuda"
    )


def _start_from(
    network: nn.Module, start: Path | None, pictures: Callable[[], Tensor], recipe: Recipe
) -> None:
    """Load a checkpoint, or the backbone's weights calibrated on `pictures` (0..255 RGB)."""
    if start is None:
        return
    if start.suffix != ".npz":
        load_weights(network, start)
        return
    mean = torch.tensor(recipe.mean).reshape(1, 3, 1, 1)
    std = torch.tensor(recipe.std).reshape(1, 3, 1, 1)
    whole = MobileNetV3Small()
    load_folded_weights(whole, start, (pictures().cpu() - mean) / std)
    backbone = network.get_submodule("backbone")
    wanted = backbone.state_dict().keys()
    backbone.load_state_dict({k: v for k, v in whole.state_dict().items() if k in wanted})
