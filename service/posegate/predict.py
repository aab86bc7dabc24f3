"""Files, folders and globs -> poses as JSON and drawn pictures."""

import asyncio
import glob
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from posegate.api.documents import coco_image_ids, coco_json, poses_json
from posegate.errors import BackendDown, BadOption, PosegateError
from posegate.ordered import in_order
from posegate.pipeline import Draw, Estimate, EstimateOptions, StageClock
from posegate.render import drawn_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
DRAWN = ".drawn.jpg"
"""How the names of drawn pictures end; a search leaves them out."""


@dataclass(frozen=True, slots=True)
class Source:
    """One picture to work on; `output` is its name in the output folder, without suffix."""

    path: Path
    output: Path

    def read(self) -> bytes:
        """The file's bytes; BadOption says why there are none."""
        try:
            return self.path.read_bytes()
        except IsADirectoryError as error:
            *others, last = SUFFIXES
            raise BadOption(f"no {', '.join(others)} or {last} in it") from error
        except OSError as error:
            raise BadOption(error.strerror or str(error)) from error


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came of one picture: `text` is JSON, or None with the reason in `error`."""

    source: Source
    text: str | None
    picture: bytes | None = None
    error: str | None = None


def find_sources(patterns: Iterable[str]) -> list[Source]:
    """Pictures named by files, folders (searched deeply, by suffix) and globs, in that order.

    A folder's hidden files and folders are left out. A name that matches nothing and a folder
    without pictures stay in the list, so that they are reported like any bad file. Two pictures
    never share an output.
    """
    return _told_apart([source for pattern in patterns for source in _sources_of(pattern)])


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
) -> AsyncIterator[Prediction]:
    """One prediction per source, in order; a bad picture does not stop the others.

    `form` is `poses` or `coco`; COCO's results name the file beside its `image_id`. Raises
    BackendDown, after which no other picture would do better.
    """
    ids = coco_image_ids(source.path.name for source in sources)
    minimum = options.min_keypoint_score
    drawing = partial(drawn_file, kind="jpeg", min_keypoint_score=minimum) if draw else None

    async def work(item: tuple[int, Source]) -> Prediction:
        position, source = item
        clock = StageClock()
        try:
            data = await asyncio.to_thread(source.read)
            clock.mark("read")
            estimate = await pipeline.estimate(data, options, clock=clock, draw=drawing)
        except BackendDown:
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


def write_prediction(prediction: Prediction, folder: Path) -> None:
    """Write `<output>.json` and, when drawn, `<output>.drawn.jpg`; BadOption when that fails."""
    target = folder / prediction.source.output
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if prediction.text is not None:
            target.with_name(target.name + ".json").write_text(prediction.text + "\n")
        if prediction.picture is not None:
            target.with_name(target.name + DRAWN).write_bytes(prediction.picture)
    except OSError as error:
        raise BadOption(f"cannot write to {target.parent}: {error.strerror}") from error


def _told_apart(sources: list[Source]) -> list[Source]:
    """Outputs that different pictures share become longer: the path below the folder that all
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
    path = Path(pattern)
    return _found(pattern) or [Source(path, Path(path.stem))]


def _found(pattern: str) -> list[Source]:
    path = Path(pattern)
    if path.is_dir():
        found = [(p, p.relative_to(path)) for p in sorted(filter(_is_picture, path.rglob("*")))]
        return [Source(p, name.with_suffix("")) for p, name in found if not _is_hidden(name)]
    if path.exists() or not glob.has_magic(pattern):
        return [Source(path, Path(path.stem))]
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  Path.glob takes no absolute
    return [source for name in names if not name.endswith(DRAWN) for source in _found(name)]


def _is_picture(path: Path) -> bool:
    """By its name; a link that leads nowhere counts, so that it is reported."""
    named = path.suffix.lower() in SUFFIXES and not path.name.endswith(DRAWN)
    return named and (path.is_file() or (path.is_symlink() and not path.exists()))


def _is_hidden(name: Path) -> bool:
    """By a dot, as .thumbnails and the folders behind the links of a mounted ConfigMap are."""
    return any(part.startswith(".") for part in name.parts)
