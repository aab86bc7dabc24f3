"""Where the people of a training batch come from: caches on disk, or photos cut up on the way."""

import atexit
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from posegate.types import U8
from posenets.training.ahead import ahead
from posenets.training.cache import (
    CROP_STEP,
    CROP_WH,
    MIN_SIDE,
    SQUARE_STEP,
    CropCache,
    cut_people,
    is_known,
    is_large_enough,
)
from posenets.training.people import read_people
from posenets.training.processes import place
from posenets.training.records import BadData
from posenets.training.teacher import TEACHER_WH

_AHEAD = 256
_AT_ONCE = 1024


class People(NamedTuple):
    """N drawn people, as in `CropCache`; `teacher` is None where there is none."""

    crops: Tensor
    joints: Tensor
    scores: Tensor
    teacher: Tensor | None


class Source(Protocol):
    """Hands out random people."""

    joint_names: tuple[str, ...]
    crop_wh: tuple[int, int]

    def take(self, count: int, generator: torch.Generator) -> People:
        """So many people."""
        ...


def crop_wh_for(sizes_wh: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Size of crops with a pixel for each pixel of the largest input, 240x320 or more.

    They are squares where an input, made as high as the teacher's, is wider than the frame.
    """
    detail = max(min(w / TEACHER_WH[0], h / TEACHER_WH[1]) for w, h in sizes_wh)
    wide = any(w / h > CROP_WH[0] / TEACHER_WH[1] for w, h in sizes_wh)
    step = SQUARE_STEP if wide else CROP_STEP
    steps = math.ceil(max(1.0, detail) * CROP_WH[1] / step[1])
    return steps * step[0], steps * step[1]


class CachedPeople:
    """People of crop caches, each as likely as its source's weight.

    Crops stay on the disk, mapped; where half of what is free in a GPU holds all of them, they lie
    there. Raises BadData for crops of several sizes, or a teacher that only some caches have.
    """

    def __init__(
        self,
        caches: Sequence[CropCache],
        weights: Mapping[str, float],
        device: torch.device,
        *,
        with_teacher: bool,
    ) -> None:
        self.has_teacher = with_teacher and _all_have_teacher(caches)
        _check_one_size(caches)
        self.caches = caches
        self.joint_names = caches[0].joint_names
        self.crop_wh = caches[0].crop_wh
        self.joints = torch.from_numpy(np.concatenate([c.joints for c in caches])).to(device)
        self.scores = torch.from_numpy(np.concatenate([c.scores for c in caches])).to(device)
        chances = [weights.get(source, 1.0) for cache in caches for source in cache.sources]
        self.chances = torch.tensor(chances, device=device)
        self.starts = np.cumsum([0] + [len(cache) for cache in caches])
        self.resident: tuple[Tensor, Tensor | None] | None = None
        crops = [cache.crops for cache in caches]
        teacher = [c.teacher for c in caches if c.teacher is not None and self.has_teacher]
        if sum(array.nbytes for array in [*crops, *teacher]) <= _room_in(device):
            self.resident = _put(crops, device), _put(teacher, device) if teacher else None

    def take(self, count: int, generator: torch.Generator) -> People:
        """Drawn with replacement."""
        index = torch.multinomial(self.chances, count, replacement=True, generator=generator)
        crops, teacher = self._read(index)
        return People(crops, self.joints[index], self.scores[index], teacher)

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.resident is not None:
            crops, maps = self.resident
            return crops[index], None if maps is None else maps[index]
        people = index.cpu().numpy()
        caches = np.searchsorted(self.starts, people, side="right") - 1
        rows = people - self.starts[caches]
        chosen = [(self.caches[c], int(row)) for c, row in zip(caches, rows, strict=True)]
        pixels = torch.from_numpy(np.stack([cache.crops[row] for cache, row in chosen]))
        pixels = pixels.to(index.device)
        if not self.has_teacher:
            return pixels, None
        taught = [cache.teacher[row] for cache, row in chosen if cache.teacher is not None]
        return pixels, torch.from_numpy(np.stack(taught)).to(index.device)


class StreamedPeople:
    """People cut out of label files' photos while training goes on; packs are read shard by shard.

    The files are read round and round in their own order into a buffer, from which people are drawn
    at random. A run that goes on after a kill begins to read anew. People are used with a chance,
    the weight of their source over the largest weight: in the first reading the largest that the
    recipe has, then the largest that the files have. Several processes share the photos out in
    turn, as cards are dealt.
    """

    def __init__(
        self,
        labels: Sequence[Path],
        weights: Mapping[str, float],
        joint_names: tuple[str, ...],
        device: torch.device,
        *,
        buffer: int = 1024,
        seed: int = 0,
        crop_wh: tuple[int, int] = CROP_WH,
    ) -> None:
        self.joint_names = joint_names
        self.device = device
        self.crop_wh = crop_wh
        self._labels, self._size = labels, buffer
        self._weights, self._seed = weights, seed
        self._heaviest = max([1.0, *weights.values()])
        self._buffer: list[tuple[Tensor, Tensor, Tensor]] = []
        self._reading: Generator[tuple[Tensor, Tensor, Tensor], None, None] | None = None

    def take(self, count: int, generator: torch.Generator) -> People:
        """Drawn without replacement from the buffer."""
        if self._reading is None:
            self._reading = ahead(self._read(), _AHEAD)
            atexit.register(self._reading.close)
        while len(self._buffer) < max(self._size, count):
            self._buffer.append(next(self._reading))
        size, device = len(self._buffer), self.device
        chosen = []
        for index in torch.randint(size, (count,), generator=generator, device=device).tolist():
            chosen.append(self._buffer[index])
            self._buffer[index] = next(self._reading)
        crops, joints, scores = (torch.stack(part).to(device) for part in zip(*chosen, strict=True))
        return People(crops, joints, scores, None)

    def _read(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        random = np.random.default_rng(self._seed)
        while True:
            yield from self._once(lambda: float(random.random()))

    def _once(self, draw: Callable[[], float]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """One reading of all files; raises BadData where nobody could have been drawn."""
        heaviest = 0.0
        rank, processes = place()
        for labels in self._labels:
            images = read_people(labels, self.joint_names)
            for image in itertools.islice(images, rank, None, processes):
                weight = self._weights.get(image.source, 1.0)
                chosen = is_known(image) & is_large_enough(image)
                if chosen.any():
                    heaviest = max(heaviest, weight)
                if draw() >= weight / self._heaviest:
                    continue
                for row, crop, joints in cut_people(image, chosen, self.crop_wh):
                    scores = torch.from_numpy(image.keypoint_scores[row].copy())
                    yield torch.from_numpy(crop), torch.from_numpy(joints.copy()), scores
        if not heaviest:
            named = ", ".join(str(path) for path in self._labels)
            raise BadData(
                f"{named}: no labelled person of {MIN_SIDE} pixels or more whose source has a "
                "weight above 0"
            )
        self._heaviest = heaviest


def _room_in(device: torch.device) -> int:
    """Bytes that cached arrays may take of a device's memory: the network needs the rest."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0


def _put(arrays: Sequence[U8], device: torch.device) -> Tensor:
    """The rows of all arrays in the device's memory; the host holds a few of them at a time."""
    rows = sum(len(array) for array in arrays)
    whole = torch.empty((rows, *arrays[0].shape[1:]), dtype=torch.uint8, device=device)
    places = whole.split([len(array) for array in arrays])
    for array, held in zip(arrays, places, strict=True):
        for start in range(0, len(array), _AT_ONCE):
            part = np.array(array[start : start + _AT_ONCE])
            held[start : start + len(part)] = torch.from_numpy(part)
    return whole


def _all_have_teacher(caches: Sequence[CropCache]) -> bool:
    """False where none has one; raises BadData where only some do."""
    without = [cache.folder for cache in caches if cache.teacher is None]
    if 0 < len(without) < len(caches):
        raise BadData(
            f"{without[0]}: has no teacher's heatmaps, other caches of this run have; make it with "
            "posenets cache --teacher, or set distil = 0 in the recipe"
        )
    return not without


def _check_one_size(caches: Sequence[CropCache]) -> None:
    for cache in caches:
        if cache.crop_wh != caches[0].crop_wh:
            ours, theirs = ("{}x{}".format(*one.crop_wh) for one in (cache, caches[0]))
            raise BadData(
                f"{cache.folder}: its crops have {ours} pixels, those of {caches[0].folder} "
                f"{theirs}; the caches of a run need one size, see posenets cache --size"
            )
