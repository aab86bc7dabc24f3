"""Whose crops make a batch: posenets.training.pose_data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from made_labels import PHOTOS
from posegate.skeleton import COCO_KEYPOINTS
from posenets.training import pose_data
from posenets.training.augment import Augmentation
from posenets.training.cache import MIN_SIDE, build_cache, open_cache
from posenets.training.pose_data import CachedPeople, People, StreamedPeople, crop_wh_for
from posenets.training.pose_task import PoseTask
from posenets.training.recipe import Phase, PoseRecipe
from posenets.training.records import BadData
from posenets.training.start import pose_trainer

CPU = torch.device("cpu")


def _task(folders: list[Path], *, distil: float) -> PoseTask:
    recipe = PoseRecipe(
        task="pose",
        network="posefpn-small",
        examples=4,
        phases=(Phase(width=64, height=64, share=1.0, batch=4),),
        distil=distil,
        augmentation=Augmentation(),
    )
    return PoseTask([open_cache(folder) for folder in folders], recipe, CPU)


def test_caches_with_and_without_a_teacher_are_not_distilled_together(
    coco_folder: Path, cached: Path, tmp_path: Path
) -> None:
    build_cache(coco_folder, tmp_path / "taught")
    np.save(tmp_path / "taught" / "teacher.npy", np.zeros((6, 17, 64, 48), np.uint8))
    with pytest.raises(BadData, match=f"^{re.escape(str(cached))}: has no teacher's heatmaps"):
        _task([tmp_path / "taught", cached], distil=1.0)
    for folders, distil in (([tmp_path / "taught", cached], 0.0), ([cached, cached], 1.0)):
        assert _task(folders, distil=distil).draw(0)[0].teacher is None
    assert _task([tmp_path / "taught"], distil=1.0).draw(0)[0].teacher is not None


def test_caches_of_two_sizes_are_refused(coco_folder: Path, cached: Path, tmp_path: Path) -> None:
    build_cache(coco_folder, tmp_path / "large", crop_wh=(360, 480))
    with pytest.raises(BadData, match=r"large: its crops have 360x480 .*cache 240x320; .*--size"):
        _task([cached, tmp_path / "large"], distil=0.0)


@pytest.mark.parametrize(
    ("sizes_wh", "crop_wh"),
    [
        ([(192, 256)], (240, 320)),
        ([(96, 128)], (240, 320)),  # no less than the frame
        ([(256, 256)], (320, 320)),  # as high as the frame, with more at the sides
        ([(192, 256), (384, 384)], (480, 480)),
        ([(192, 256), (288, 384)], (360, 480)),
        ([(224, 288)], (270, 360)),
    ],
)
def test_crops_have_a_pixel_for_each_of_the_largest_input(
    sizes_wh: list[tuple[int, int]], crop_wh: tuple[int, int]
) -> None:
    assert crop_wh_for(sizes_wh) == crop_wh


def test_a_draw_that_passes_everybody_over_ends_no_stream(coco_folder: Path) -> None:
    """The heaviest source of the recipe is not there, and another one counts for nothing."""
    weights = {"elsewhere": 1e3, "left": 1.0, "right": 0.0}
    streamed = StreamedPeople([coco_folder], weights, COCO_KEYPOINTS, CPU, buffer=2)
    assert len(streamed.take(4, torch.Generator()).crops) == 4
    assert len(list(streamed._once(lambda: 0.999))) == PHOTOS // 2, "all of the heaviest there is"


@pytest.mark.parametrize(
    ("weights", "side"), [({"left": 0.0, "right": 0.0}, 100), ({}, MIN_SIDE - 1)]
)
def test_a_stream_without_anybody_to_draw_is_refused(
    coco_folder: Path, weights: dict[str, float], side: int
) -> None:
    labels = json.loads(coco_folder.read_text())
    for person in labels["annotations"]:
        person["bbox"][2:] = [side, side]
    coco_folder.write_text(json.dumps(labels))
    streamed = StreamedPeople([coco_folder], weights, COCO_KEYPOINTS, CPU)
    with pytest.raises(
        BadData, match=rf"^{coco_folder}: no labelled person of 48 .* weight above 0"
    ):
        streamed.take(1, torch.Generator())


def test_people_in_a_device_s_memory_are_drawn_as_those_on_the_disk(
    coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = [build_cache(coco_folder, tmp_path / name) for name in ("first", "second")]
    for cache in caches:
        noise = np.random.default_rng(0).integers(256, size=(PHOTOS, 17, 64, 48), dtype=np.uint8)
        np.save(cache.folder / "teacher.npy", noise)
    caches = [open_cache(cache.folder) for cache in caches]
    needed = sum(array.nbytes for cache in caches for array in (cache.crops, cache.teacher))
    monkeypatch.setattr(pose_data, "_AT_ONCE", 4)

    def drawn(room: int) -> People:
        monkeypatch.setattr(pose_data, "_room_in", lambda _: room)
        people = CachedPeople(caches, {"left": 2.0}, CPU, with_teacher=True)
        assert (people.resident is not None) == (room == needed)
        return people.take(20, torch.Generator().manual_seed(3))

    for held, mapped in zip(drawn(needed), drawn(needed - 1), strict=True):
        assert torch.equal(held, mapped)


def test_crops_take_half_of_what_is_free_in_a_gpu_and_nothing_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 4000))
    assert pose_data._room_in(torch.device("cuda")) == 500
    assert pose_data._room_in(CPU) == 0


def test_processes_stream_people_of_their_own(
    coco_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(rank: int, processes: int) -> list[bytes]:
        monkeypatch.setattr(pose_data, "place", lambda: (rank, processes))
        streamed = StreamedPeople([coco_folder], {}, COCO_KEYPOINTS, CPU)
        return [crop.numpy().tobytes() for crop, _, _ in streamed._once(lambda: 0.0)]

    alone, first, second = once(0, 1), once(0, 2), once(1, 2)
    assert first and second and not set(first) & set(second)
    assert sorted(first + second) == sorted(alone)


def test_people_whom_a_teacher_is_not_sure_of_are_not_streamed(coco_folder: Path) -> None:
    """Caches leave them out too."""
    labels = json.loads(coco_folder.read_text())
    for person in labels["annotations"]:
        person["score"] = 0.9 if person["id"] == labels["annotations"][0]["id"] else 0.39
    coco_folder.write_text(json.dumps(labels))
    streamed = StreamedPeople([coco_folder], {}, COCO_KEYPOINTS, CPU)
    assert len(list(streamed._once(lambda: 0.0))) == 1


def test_streamed_crops_have_the_size_asked_for(pack: Path) -> None:
    streamed = StreamedPeople([pack], {}, COCO_KEYPOINTS, CPU, buffer=4, crop_wh=(360, 480))
    people = streamed.take(2, torch.Generator().manual_seed(0))
    assert people.crops.shape == (2, 480, 360, 3)
    assert people.joints[..., 0].max() < 240


def test_people_of_a_stream_have_the_pixels_of_the_recipes_input(
    coco_folder: Path, tmp_path: Path
) -> None:
    phase = Phase(width=288, height=384, share=1.0, batch=2)
    recipe = PoseRecipe(task="pose", network="posefpn-small", examples=2, phases=(phase,))
    trainer = pose_trainer(
        recipe, [], streams=[coco_folder], start=None, device=CPU, checkpoint=tmp_path / "run.pt"
    )
    trainer.task.people._size = 2  # a small buffer
    people = trainer.task.people.take(2, torch.Generator())
    assert people.crops.shape == (2, 480, 360, 3)
