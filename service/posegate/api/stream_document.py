"""What the OpenAPI document says of the stream, and what is told to callers that open it wrongly.

OpenAPI knows no WebSockets: the route stands as the GET that asks for the upgrade, its events as
the content of the 101 answer, its first message under `x-first-message`.
"""

from typing import Any

from posegate.api.openapi import POSES_EXAMPLE, reference
from posegate.api.options import MAX_TEXT
from posegate.api.problem_examples import problems

UPGRADE_NEEDED = (
    "This address is a WebSocket: connect with ws:// or wss://, then send one JPEG, PNG or WebP "
    "per binary message. Single pictures go to POST /v1/poses."
)
NO_QUERY = (
    'the address of a stream takes no query; options go into the first text message, as {"mode": '
    '"every", "min_score": 0.5}, and an API key into a header'
)

_PERSON = POSES_EXAMPLE["people"][0]
_TRACKED = {"id": 0, **_PERSON, "smoothed": _PERSON["keypoints"]}
_HEAD = {"frame": 7, "age_ms": 31.2}
_EVENTS: dict[str, dict[str, Any]] = {
    "result": {"event": "result", **_HEAD, **POSES_EXAMPLE},
    "tracked": {"event": "result", **_HEAD, **POSES_EXAMPLE, "people": [_TRACKED]},
    "dropped": {"event": "dropped", **_HEAD, "stages_ms": {}, "reason": "busy"},
    "error": {
        "event": "error", **_HEAD, "stages_ms": {"decode": 0.4}, "type": "bad-image",
        "title": "Not a readable image", "status": 422, "detail": "the JPEG is truncated",
    },
    "summary": {
        "event": "summary", "frames": 100, "results": 58, "errors": 1,
        "dropped": {"busy": 41, "rate": 0}, "age_ms": {"p50": 24.8, "p95": 40.1},
    },
}  # fmt: skip
_UPGRADE = {"description": "websocket", "schema": {"type": "string"}}


def _answers() -> dict[int | str, dict[str, Any]]:
    answers = problems(401, 422, 426, 429, 500, 503, without=("bad-image",))
    answers[426]["headers"] = {"Upgrade": _UPGRADE}
    examples = {name: {"value": event} for name, event in _EVENTS.items()}
    answers[101] = {
        "description": "The stream is open; each event is one text message",
        "content": {"application/json": {"schema": reference("StreamEvent"), "examples": examples}},
    }
    return answers


STREAM: dict[str, Any] = {
    "summary": "A stream of frames over a WebSocket: one event per frame",
    "description": "Connect with `ws://` or `wss://`; the query must be empty. An optional first "
    'text message holds the options, as `{"mode": "every", "track": true}`. Every binary message '
    "is one frame, numbered from 0, and gets exactly one event, in order: `result`, `dropped` or "
    "`error`. By default the stream is live: the newest frame wins, the one waiting is dropped. "
    'The text message `{"end": true}` asks for the `summary` and a clean close. A frame over '
    "`max_body_bytes` costs an `error` event; one over twice that ends the connection with close "
    f"code 1009. A text message may have at most {MAX_TEXT} characters. With `track` and "
    "`format=coco`, rows have `id` and flat `smoothed` keypoints.",
    "status_code": 101,
    "responses": _answers(),
    "openapi_extra": {"x-first-message": reference("StreamQuery")},
}
