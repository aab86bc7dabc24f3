"""Protobuf messages <-> options, estimates and events; numbers are rounded as in the JSON form."""

import json
from typing import Any

import numpy as np
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

from posegate.api.documents import people, rounded, rounded_ms, timing
from posegate.api.options import FAR, MAX_BOXES
from posegate.api.pb import pose_pb2 as pb
from posegate.api.problems import problem_of
from posegate.card import ModelCard
from posegate.errors import BadOption, PosegateError
from posegate.events import Dropped, Event, Failed, Result, Summary
from posegate.options import EstimateOptions
from posegate.pipeline import Estimate
from posegate.streams import StreamOptions
from posegate.tracking import Tracks
from posegate.types import F32

DECODES = {
    pb.DECODE_UNSPECIFIED: "dark",
    pb.DECODE_DARK: "dark",
    pb.DECODE_QUARTER: "quarter",
    pb.DECODE_ARGMAX: "argmax",
}
MODES = {
    pb.STREAM_MODE_UNSPECIFIED: "live",
    pb.STREAM_MODE_LIVE: "live",
    pb.STREAM_MODE_EVERY: "every",
}
Named = dict[str, list[float]]
DROP_REASONS = {"busy": pb.DROP_REASON_BUSY, "rate": pb.DROP_REASON_RATE}


def read_options(message: pb.EstimateOptions) -> EstimateOptions:
    """The options asked for; BadOption says which is wrong."""
    given = {
        name: getattr(message, name)
        for name in ("model", "detector", "min_score", "min_keypoint_score", "max_people")
        if message.HasField(name)
    }
    return EstimateOptions(
        **given,
        boxes_xywh=_read_boxes(message.boxes) if message.HasField("boxes") else None,
        flip_test=message.flip_test,
        decode=_known(pb.Decode, DECODES, message.decode, "decode"),
    )


def read_stream_options(message: pb.StreamOptions) -> StreamOptions:
    """The options of a stream; BadOption says which is wrong."""
    return StreamOptions(
        estimate=read_options(message.estimate),
        mode=_known(pb.StreamMode, MODES, message.mode, "mode"),
        track=message.track,
        detect_every=message.detect_every if message.HasField("detect_every") else 1,
    )


def read_stream_request(message: pb.StreamRequest) -> StreamOptions | bytes | PosegateError:
    """What the stream engine takes."""
    match message.WhichOneof("message"):
        case "frame":
            return message.frame
        case "options":
            try:
                return read_stream_options(message.options)
            except PosegateError as error:
                return error
        case _:
            return BadOption("a stream request needs `options` or `frame`; this one has neither")


def poses_message(
    estimate: Estimate, *, min_keypoint_score: float, tracks: Tracks | None = None
) -> pb.Poses:
    """The answer for one image; marks `encode`."""
    rows = people(estimate.poses, min_keypoint_score=min_keypoint_score, tracks=tracks)
    message = pb.Poses(
        model=estimate.model,
        detector=estimate.detector,
        image=pb.ImageSize(width=estimate.image.width, height=estimate.image.height),
        people=[_person(row) for row in rows],
    )
    estimate.clock.mark("encode")
    times = timing(estimate)
    message.stages_ms.update(times["stages_ms"])
    message.total_ms = times["total_ms"]
    return message


def event_message(event: Event, *, min_keypoint_score: float) -> pb.StreamResponse:
    """One event of a stream; marks `encode` of a result."""
    match event:
        case Result():
            poses = poses_message(
                event.estimate, min_keypoint_score=min_keypoint_score, tracks=event.tracks
            )
            result = pb.FrameResult(frame=event.frame, age_ms=rounded(event.age_ms), poses=poses)
            return pb.StreamResponse(result=result)
        case Dropped():
            dropped = pb.FrameDropped(
                frame=event.frame,
                age_ms=rounded(event.age_ms),
                stages_ms=rounded_ms(event.stages_ms),
                reason=DROP_REASONS[event.reason],
            )
            return pb.StreamResponse(dropped=dropped)
        case Failed():
            return pb.StreamResponse(error=_failed(event))
        case Summary():
            return pb.StreamResponse(summary=_summary(event))


def model_message(card: ModelCard) -> pb.Model:
    """A model card: its main fields, and all of it as JSON."""
    return pb.Model(
        name=card.name,
        task=card.task,
        description=card.description,
        default=card.default,
        input_width=card.input.width,
        input_height=card.input.height,
        keypoints=card.keypoints,
        score=card.score,
        licence=card.licence,
        sha256=card.sha256,
        card_json=json.dumps(card.model_dump(mode="json", exclude_none=True)),
    )


def _read_boxes(message: pb.Boxes) -> F32:
    given = len(message.boxes)
    if given > MAX_BOXES:
        raise BadOption(f"{given} boxes were given; at most {MAX_BOXES} are read, send fewer")
    rows = [(box.x, box.y, box.width, box.height) for box in message.boxes]
    return np.array(rows, np.float64).reshape(-1, 4).clip(-FAR, FAR).astype(np.float32)


def _known(kind: Any, table: dict[Any, str], value: int, name: str) -> str:
    if value not in table:
        known = ", ".join(kind.Name(number) for number in table)
        raise BadOption(f"{name} is {value}; it must be one of {known}")
    return table[value]


def _person(row: dict[str, Any]) -> pb.Person:
    x, y, width, height = row["box"]
    person = pb.Person(
        id=row.get("id"), score=row["score"], box=pb.Box(x=x, y=y, width=width, height=height)
    )
    _add(person.keypoints, row["keypoints"])
    _add(person.smoothed, row.get("smoothed", {}))
    return person


def _add(keypoints: RepeatedCompositeFieldContainer[pb.Keypoint], named: Named) -> None:
    """Fill in place: half the time of making keypoints first and copying them in."""
    for name, (x, y, score) in named.items():
        keypoints.add(name=name, x=x, y=y, score=score)


def _failed(event: Failed) -> pb.FrameError:
    problem = problem_of(event.error)
    return pb.FrameError(
        frame=event.frame,
        age_ms=rounded(event.age_ms),
        stages_ms=rounded_ms(event.stages_ms),
        type=problem.slug,
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
    )


def _summary(summary: Summary) -> pb.StreamSummary:
    return pb.StreamSummary(
        frames=summary.frames,
        results=summary.results,
        errors=summary.errors,
        dropped_busy=summary.dropped["busy"],
        dropped_rate=summary.dropped["rate"],
        age_p50_ms=rounded(summary.age_p50_ms),
        age_p95_ms=rounded(summary.age_p95_ms),
    )
