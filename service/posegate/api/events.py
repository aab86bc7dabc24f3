"""Stream event -> one JSON text, the message of the WebSocket face."""

from typing import Any

from posegate.api.documents import coco_results, dump_json, poses_json, rounded, rounded_ms
from posegate.api.options import DEFAULT_STREAM, StreamQuery
from posegate.api.problems import problem_of
from posegate.events import Dropped, Event, Failed, Result, Summary


def event_json(event: Event, query: StreamQuery) -> str:
    """The event as the contract writes it; marks `encode` of a result."""
    match event:
        case Result():
            return _result(event, query)
        case Dropped():
            return dump_json({**_head("dropped", event), **_stages(event), "reason": event.reason})
        case Failed():
            return dump_json({**_head("error", event), **_stages(event), **_problem(event.error)})
        case Summary():
            return dump_json(_summary(event))


def refusal_json(error: Exception) -> str:
    """The error event of a stream that does not begin."""
    return event_json(Failed(None, 0.0, {}, error), DEFAULT_STREAM)


def _result(event: Result, query: StreamQuery) -> str:
    head = _head("result", event)
    minimum = query.min_keypoint_score
    if query.format == "poses":
        return poses_json(
            event.estimate, min_keypoint_score=minimum, tracks=event.tracks, head=head
        )
    rows = coco_results(
        event.estimate.poses,
        min_keypoint_score=minimum,
        image_id=event.frame,
        tracks=event.tracks,
    )
    event.estimate.clock.mark("encode")
    return dump_json(
        {**head, "results": rows, "stages_ms": rounded_ms(event.estimate.clock.stages_ms)}
    )


def _head(name: str, event: Result | Dropped | Failed) -> dict[str, Any]:
    return {"event": name, "frame": event.frame, "age_ms": rounded(event.age_ms)}


def _stages(event: Dropped | Failed) -> dict[str, Any]:
    return {"stages_ms": rounded_ms(event.stages_ms)}


def _problem(error: Exception) -> dict[str, Any]:
    problem = problem_of(error)
    return {
        "type": problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }


def _summary(summary: Summary) -> dict[str, Any]:
    ages = {"p50": summary.age_p50_ms, "p95": summary.age_p95_ms}
    return {
        "event": "summary",
        "frames": summary.frames,
        "results": summary.results,
        "errors": summary.errors,
        "dropped": summary.dropped,
        "age_ms": {name: rounded(age) for name, age in ages.items()},
    }
