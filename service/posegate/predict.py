"""Files, folders and globs -> poses as JSON and drawn pictures."""

import asyncio
import errno
import glob
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from posegate.api.documents import coco_image_ids, coco_json, poses_json
from posegate.errors import (
    BackendDown,
    BadOption,
    PosegateError,
    Unauthenticated,
    UnknownModel,
)
from posegate.options import EstimateOptions
from posegate.ordered import in_order
from posegate.pipeline import Draw, Estimate
from posegate.render import drawn_file
from posegate.stages import StageClock

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff")
"""Pictures that are not taken; a search of folders tells that they were there."""
DRAWN = ".drawn.jpg"
"""How the names of drawn pictures end; a search leaves them out."""
LARGEST_FILE = 2**30
"""Bytes; a device file never ends, and a service says itself what is too much for it."""
HOPELESS = (BackendDown, BadOption, Unauthenticated, UnknownModel)
"""What a service says of the whole run; no other picture would do better."""


@dataclass(frozen=True, slots=True)
class Source:
    """One picture to work on; `output` is its name in the output folder, without suffix."""

    path: Path
    output: Path

    def read(self, max_bytes: int = LARGEST_FILE) -> bytes:
        """The file's bytes; BadOption says why there are none, or that they are too many."""
        try:
            with self.path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except IsADirectoryError as error:
            *others, last = SUFFIXES
            raise BadOption(f"no {', '.join(others)} or {last} in it") from error
        except OSError as error:
            raise BadOption(error.strerror or str(error)) from error
        if len(data) > max_bytes:
            raise BadOption(f"The file has more than the {max_bytes} bytes that are allowed.")
        return data


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came of one picture: `text` is JSON, or None with the reason in `error`."""

    source: Source
    text: str | None
    picture: bytes | None = None
    error: str | None = None


def find_sources(patterns: Iterable[str]) -> list[Source]:
    """Pictures named by files, folders (searched deeply, by suffix) and globs, in that order.

    A folder's hidden files and folders are left out, links to folders are followed. A name that
    matches nothing and a folder without pictures stay in the list, so that they are reported like
    any bad file. Two pictures never share an output. Raises BadOption for what names no file at
    all.
    """
    return _told_apart([source for pattern in patterns for source in _sources_of(pattern)])


def left_out(patterns: Iterable[str]) -> Counter[str]:
    """How many pictures of each other kind, by suffix, lie in the folders among the patterns."""
    folders = [Path(pattern) for pattern in patterns if pattern and _is_folder(pattern)]
    suffixes = (path.suffix.lower() for folder in folders for path in _below(folder))
    return Counter(suffix for suffix in suffixes if suffix in OTHER_SUFFIXES)


class Estimating(Protocol):
    """The pipeline, or a service somewhere else in its place."""

    async def estimate(
        self,
        data: bytes,
        options: EstimateOptions,
        *,
        clock: StageClock | None = None,
        draw: Draw | None = None,
    ) -> Estimate:
        """Every person's keypoints in an encoded image."""
        ...


async def predict(
    pipeline: Estimating,
    sources: list[Source],
    options: EstimateOptions,
    *,
    form: str = "poses",
    draw: bool = False,
    ahead: int = 4,
    max_bytes: int = LARGEST_FILE,
) -> AsyncIterator[Prediction]:
    """One prediction per source, in order; a bad picture does not stop the others.

    `form` is `poses` or `coco`; COCO's results name the file beside its `image_id`. No more than
    `max_bytes` of a file are read. Raises what is HOPELESS.
    """
    ids = coco_image_ids(source.path.name for source in sources)
    minimum = options.min_keypoint_score
    drawing = partial(drawn_file, kind="jpeg", min_keypoint_score=minimum) if draw else None

    async def work(item: tuple[int, Source]) -> Prediction:
        position, source = item
        clock = StageClock()
        try:
            data = await asyncio.to_thread(source.read, max_bytes)
        except BadOption as error:
            return Prediction(source, None, error=error.detail)
        clock.mark("read")
        try:
            estimate = await pipeline.estimate(data, options, clock=clock, draw=drawing)
        except HOPELESS:
            raise
        except PosegateError as error:
            return Prediction(source, None, error=error.detail)
        if form == "poses":
            text = poses_json(estimate, min_keypoint_score=minimum)
        else:
            text = coco_json(
                estimate,
                min_keypoint_score=minimum,
                image_id=ids[position],
                tail={"file_name": str(source.path)},
            )
        return Prediction(source, text, estimate.drawn)

    async for prediction in in_order(enumerate(sources), work, ahead=ahead):
        yield prediction


def write_prediction(prediction: Prediction, folder: Path) -> str | None:
    """Write `<output>.json` and, when drawn, `<output>.drawn.jpg`.

    Returns the reason where only this one cannot be written, because its name is too long. Raises
    BadOption where the folder cannot be written to.
    """
    target = folder / prediction.source.output
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if prediction.text is not None:
            _write(target.with_name(target.name + ".json"), f"{prediction.text}\n".encode())
        if prediction.picture is not None:
            _write(target.with_name(target.name + DRAWN), prediction.picture)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return f"cannot write to {target.parent}: {error.strerror}"
        raise BadOption(f"cannot write to {target.parent}: {error.strerror}") from error
    return None


def _write(path: Path, data: bytes) -> None:
    """Write the file, or leave none: a part of it would look done."""
    try:
        path.write_bytes(data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            path.unlink(missing_ok=True)
        raise


def _told_apart(sources: list[Source]) -> list[Source]:
    """Make the outputs that several pictures share longer: the path below the folder that all
    sources share, and where that is not enough, the same with the suffix."""
    paths = [Path(os.path.abspath(source.path)) for source in sources]  # noqa: PTH100  keeps links
    shared = os.path.commonpath([path.parent for path in paths] or [Path.cwd()])
    below = [path.relative_to(shared) for path in paths]
    outputs = [  # of each source, the next to try last
        [name, name.parent / name.stem, source.output]
        for name, source in zip(below, sources, strict=True)
    ]
    while True:
        users = defaultdict(set)
        for (*_, output), path in zip(outputs, paths, strict=True):
            users[output].add(path)
        clashing = [names for names in outputs if len(names) > 1 and len(users[names[-1]]) > 1]
        if not clashing:
            return [
                replace(source, output=names[-1])
                for source, names in zip(sources, outputs, strict=True)
            ]
        for names in clashing:
            names.pop()


def _sources_of(pattern: str) -> list[Source]:
    if not pattern:
        raise BadOption("an empty name was given; this folder is named by .")
    if pattern == "-":
        raise BadOption("standard input is named by /dev/stdin")
    if "://" in pattern:
        raise BadOption(f"{pattern} is no file; fetch it first")
    path = Path(pattern)
    return _found(pattern) or [Source(path, Path(path.stem))]


def _found(pattern: str) -> list[Source]:
    path = Path(pattern)
    if _is_folder(path):
        closed: list[Path] = []
        found = sorted([*filter(_is_picture, _below(path, closed)), *closed])
        return [Source(one, one.relative_to(path).with_suffix("")) for one in found]
    if _exists(path) or not glob.has_magic(pattern):
        return [Source(path, Path(path.stem))]
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  Path.glob takes no absolute
    once: dict[Path, Source] = {}  # ** names folders and the files in them
    for name in names:
        for source in _found(name) if not name.endswith(DRAWN) else ():
            once.setdefault(source.path, source)
    return list(once.values())


def _is_picture(path: Path) -> bool:
    """By its name; what leads nowhere or may not be looked at counts, so that it is reported."""
    named = path.suffix.lower() in SUFFIXES and not path.name.endswith(DRAWN)
    return named and (os.path.isfile(path) or not _exists(path))  # noqa: PTH113  as below


def _is_folder(path: Path | str) -> bool:
    """False where it may not be looked at; Path.is_dir raises."""
    return os.path.isdir(path)  # noqa: PTH112


def _exists(path: Path) -> bool:
    """False where it may not be looked at; Path.exists raises."""
    return os.path.exists(path)  # noqa: PTH110


def _below(folder: Path, closed: list[Path] | None = None) -> Iterator[Path]:
    """Every file, each folder once, whatever links lead to it; `closed` gets the folders below
    that cannot be read.

    Hidden ones are left out, as .thumbnails and the folders behind a mounted ConfigMap's links are.
    """

    def tell(error: OSError) -> None:
        if closed is not None and Path(error.filename) != folder:
            closed.append(Path(error.filename))

    entered = set()
    for name, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        real = Path(name).resolve()
        is_new = real not in entered
        entered.add(real)
        folders[:] = [one for one in folders if is_new and not one.startswith(".")]
        yield from (Path(name, one) for one in files if is_new and not one.startswith("."))
