"""Files, folders and globs -> poses as JSON and drawn pictures."""

import asyncio
import glob
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from posegate.api.documents import coco_image_id, coco_json, poses_json
from posegate.errors import BadOption, PosegateError
from posegate.ordered import in_order
from posegate.pipeline import Estimate, EstimateOptions, StageClock
from posegate.render import draw_poses, encode_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


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

    A name that matches nothing and a folder without pictures stay in the list, so that they are
    reported like any bad file. Two pictures never share an output.
    """
    return _told_apart([source for pattern in patterns for source in _sources_of(pattern)])


class Estimating(Protocol):
    """The pipeline, or a service somewhere else in its place."""

    async def estimate(
        self, data: bytes, options: EstimateOptions, *, clock: StageClock | None = None
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

    `form` is `poses` or `coco`.
    """

    async def work(item: tuple[int, Source]) -> Prediction:
        position, source = item
        clock = StageClock()
        try:
            data = await asyncio.to_thread(source.read)
            clock.mark("read")
            estimate = await pipeline.estimate(data, options, clock=clock)
        except PosegateError as error:
            return Prediction(source, None, error=error.detail)
        minimum = options.min_keypoint_score
        picture = None
        if draw:
            drawn = await asyncio.to_thread(
                draw_poses, estimate.image, estimate.poses, min_keypoint_score=max(minimum, 0.2)
            )
            picture = await asyncio.to_thread(encode_image, drawn, "jpeg")
        if form == "poses":
            text = poses_json(estimate, min_keypoint_score=minimum)
        else:
            image_id = coco_image_id(source.path.name, position)
            text = coco_json(estimate, min_keypoint_score=minimum, image_id=image_id)
        return Prediction(source, text, picture)

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
            target.with_name(target.name + ".drawn.jpg").write_bytes(prediction.picture)
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
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        return [Source(p, p.relative_to(path).with_suffix("")) for p in found]
    if path.exists() or not glob.has_magic(pattern):
        return [Source(path, Path(path.stem))]
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  Path.glob takes no absolute
    return [source for name in names for source in _found(name)]
