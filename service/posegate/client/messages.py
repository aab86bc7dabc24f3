"""Options -> protobuf messages, and protobuf answers -> the documents of the HTTP API."""

from collections.abc import Iterable
from typing import Any

from posegate.api.pb import pose_pb2 as pb
from posegate.client.transport import Document
from posegate.errors import BadOption

STREAM_ONLY = ("mode", "track", "detect_every")
TEXT, NUMBER, WHOLE, TRUTH = "a text", "a number", "a whole number from 1", "True or False"
TAKEN = {
    "model": TEXT,
    "detector": TEXT,
    "min_score": NUMBER,
    "min_keypoint_score": NUMBER,
    "max_people": WHOLE,
    "flip_test": TRUTH,
    "track": TRUTH,
    "detect_every": WHOLE,
}
"""What the messages take; the service judges the rest."""
PLAIN = tuple(name for name in TAKEN if name not in STREAM_ONLY)
ESTIMATE = (*PLAIN, "boxes", "decode")


def estimate_options(options: Document) -> pb.EstimateOptions:
    """The message of the contract's query options, but for `format`, which is HTTP's alone."""
    _refuse_unknown(options, ESTIMATE)
    message = pb.EstimateOptions()
    for name in PLAIN:
        _take(message, name, options)
    if "boxes" in options:
        message.boxes.CopyFrom(_boxes(options["boxes"]))
    if "decode" in options:
        message.decode = _enum(pb.Decode, "DECODE_", "decode", options["decode"])
    return message


def stream_options(options: Document) -> pb.StreamOptions:
    """The message of a stream's options."""
    _refuse_unknown(options, (*ESTIMATE, *STREAM_ONLY))
    plain = {name: value for name, value in options.items() if name not in STREAM_ONLY}
    message = pb.StreamOptions(estimate=estimate_options(plain))
    for name in ("track", "detect_every"):
        _take(message, name, options)
    if "mode" in options:
        message.mode = _enum(pb.StreamMode, "STREAM_MODE_", "mode", options["mode"])
    return message


def poses_document(poses: pb.Poses) -> Document:
    """The `Poses` document."""
    return {
        "model": poses.model,
        "detector": poses.detector if poses.HasField("detector") else None,
        "image": {"width": poses.image.width, "height": poses.image.height},
        "people": [_person(person) for person in poses.people],
        "stages_ms": dict(poses.stages_ms),
        "total_ms": poses.total_ms,
    }


def event_document(response: pb.StreamResponse) -> Document:
    """The event of one stream response."""
    kind = response.WhichOneof("event")
    if kind == "summary":
        return _summary(response.summary)
    event = getattr(response, str(kind))
    head: Document = {"event": kind, "frame": event.frame, "age_ms": event.age_ms}
    match kind:
        case "result":
            return {**head, **poses_document(event.poses)}
        case "dropped":
            reason = pb.DropReason.Name(event.reason).removeprefix("DROP_REASON_").lower()
            return {**head, "stages_ms": dict(event.stages_ms), "reason": reason}
        case _:
            head["frame"] = event.frame if event.HasField("frame") else None
            problem = {key: getattr(event, key) for key in ("type", "title", "status", "detail")}
            return {**head, "stages_ms": dict(event.stages_ms), **problem}


def _refuse_unknown(options: Document, known: tuple[str, ...]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BadOption(
            f"option {unknown[0]!r} is unknown to the gRPC API; allowed: {', '.join(known)}"
        )


def _take(message: Any, name: str, options: Document) -> None:
    """Set one field, if the option is given."""
    if name not in options:
        return
    value = options[name]
    if isinstance(value, float) and value.is_integer() and TAKEN[name] == WHOLE:
        value = int(value)
    try:
        if isinstance(value, bool) and TAKEN[name] != TRUTH:
            raise TypeError(value)
        setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise BadOption(f"{name} is {options[name]!r:.80}; it must be {TAKEN[name]}") from error


def _boxes(rows: Any) -> pb.Boxes:
    try:
        return pb.Boxes(boxes=[pb.Box(x=x, y=y, width=w, height=h) for x, y, w, h in rows])
    except (TypeError, ValueError) as error:
        raise BadOption(
            f"boxes is {rows!r:.80}; it must be a list of [x, y, width, height]"
        ) from error


def _enum(kind: Any, prefix: str, name: str, value: str) -> Any:
    try:
        return kind.Value(prefix + _lower(value).upper())
    except ValueError as error:
        names = [key.removeprefix(prefix).lower() for key in kind.keys()]  # noqa: SIM118
        *others, last = [known for known in names if known != "unspecified"]
        raise BadOption(
            f"{name} is {value!r:.80}; it must be {', '.join(others)} or {last}"
        ) from error


def _lower(value: str) -> str:
    """A name as the API writes it; the enum would take its upper case as well."""
    if not isinstance(value, str) or value != value.lower():
        raise ValueError(value)
    return value


def _person(person: pb.Person) -> Document:
    document: Document = {
        "score": person.score,
        "box": [person.box.x, person.box.y, person.box.width, person.box.height],
        "keypoints": _keypoints(person.keypoints),
    }
    if not person.HasField("id"):
        return document
    return {"id": person.id, **document, "smoothed": _keypoints(person.smoothed)}


def _keypoints(rows: Iterable[pb.Keypoint]) -> dict[str, list[float]]:
    return {row.name: [row.x, row.y, row.score] for row in rows}


def _summary(summary: pb.StreamSummary) -> Document:
    ages = {
        share: getattr(summary, field) if summary.HasField(field) else None
        for share, field in (("p50", "age_p50_ms"), ("p95", "age_p95_ms"))
    }
    return {
        "event": "summary",
        "frames": summary.frames,
        "results": summary.results,
        "errors": summary.errors,
        "dropped": {"busy": summary.dropped_busy, "rate": summary.dropped_rate},
        "age_ms": ages,
    }
