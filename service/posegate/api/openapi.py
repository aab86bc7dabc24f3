"""What the OpenAPI document says of each route beyond its signature: bodies, answers, examples."""

from typing import Any

from posegate.api.problems import MEDIA_TYPE, Problem
from posegate.api.schemas import BatchAnswer, CocoResult, Health, ModelsAnswer, PosesAnswer
from posegate.card import ModelCard
from posegate.skeleton import COCO_KEYPOINTS

EXAMPLE_ID = "5b0c2f4e9d1a4c6f8e7d3b2a1c0f9e8d"

PROBLEMS = (
    Problem("bad-image", "Not a readable image", 415, "the bytes are not JPEG, PNG or WebP"),
    Problem("bad-image", "Not a readable image", 422, "the JPEG is truncated; send it whole"),
    Problem("bad-option", "Invalid option", 422, "min_score must lie in [0, 1], got 7"),
    Problem("too-large", "Input over a limit", 413, "the body is over the limit of 20971520 bytes"),
    Problem("unknown-model", "Unknown model", 404, "no network 'x'; known: posefpn-small-256x192"),
    Problem("unauthenticated", "API key needed", 401, "this service needs an API key"),
    Problem("overloaded", "Too many requests", 429, "64 requests are already in flight"),
    Problem("deadline", "Deadline passed", 504, "no answer within 2 s"),
    Problem("unavailable", "Backend unavailable", 503, "the service is not ready: warming up"),
    Problem("internal", "Internal error", 500, "The service failed in a way it did not foresee."),
)

_PERSON = {
    "score": 0.93,
    "box": [12.0, 40.5, 210.3, 400.9],
    "keypoints": {"nose": [101.2, 77.9, 0.88], "left_eye": [106.0, 73.1, 0.91]},
}
_POSES = {
    "model": "posefpn-small-256x192",
    "detector": "person-detector",
    "image": {"width": 640, "height": 480},
    "people": [_PERSON],
    "stages_ms": {
        "read": 0.3, "decode": 2.1, "detect": 9.8, "crop": 0.4,
        "queue": 1.2, "infer": 11.0, "keypoints": 0.2, "encode": 0.1,
    },
    "total_ms": 25.1,
}  # fmt: skip
_COCO = [
    {
        "image_id": 139,
        "category_id": 1,
        "keypoints": [101.2, 77.9, 0.88] + [0.0] * 3 * (len(COCO_KEYPOINTS) - 1),
        "score": 0.8,
    }
]
_CARD = {
    "name": "posefpn-small-256x192",
    "task": "pose",
    "description": "Small pose network for CPUs.",
    "default": True,
    "input": {
        "name": "input", "width": 192, "height": 256, "color": "rgb",
        "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375],
    },
    "crop": {"padding": 1.25},
    "output": {"names": ["heatmaps"]},
    "codec": {
        "kind": "heatmap", "width": 48, "height": 64, "sigma": 2.0,
        "scale": [4.0, 4.0], "offset": [0.0, 0.0],
    },
    "keypoints": list(COCO_KEYPOINTS),
    "score": "height of the joint's peak in its heatmap",
    "parameters": 1_300_000,
    "gflops": 0.4,
    "licence": "Apache-2.0",
    "sha256": "0" * 64,
}  # fmt: skip


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route, each with its examples."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        rows = [problem for problem in PROBLEMS if problem.status == status]
        answers[status] = {
            "description": " or ".join(dict.fromkeys(row.title for row in rows)),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemAnswer"},
                    "examples": {row.slug: {"value": row.document(EXAMPLE_ID)} for row in rows},
                }
            },
        }
        if status in (429, 503):
            answers[status]["headers"] = {
                "Retry-After": {"description": "seconds", "schema": {"type": "integer"}}
            }
    return answers


def answer(model: type, description: str, **examples: object) -> dict[int | str, dict[str, Any]]:
    """A route's 200 answer in JSON."""
    content = {"examples": {name: {"value": value} for name, value in examples.items()}}
    return {
        200: {
            "model": model,
            "description": description,
            "content": {"application/json": content if examples else {}},
        }
    }


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGES = ("image/jpeg", "image/png", "image/webp")
_POST_PROBLEMS = problems(401, 404, 413, 415, 422, 429, 500, 503, 504)


def _multipart(image: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["image"], "properties": {"image": image}}
    return {"multipart/form-data": {"schema": schema}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


def _poses_answer() -> dict[int | str, dict[str, Any]]:
    ok = answer(
        PosesAnswer | list[CocoResult],  # type: ignore[arg-type]
        "Everybody in the picture; nobody is a normal answer",
        poses=_POSES,
        nobody={**_POSES, "people": []},
        coco=_COCO,
    )
    ok[200]["content"] |= {"image/jpeg": _BINARY, "image/png": _BINARY}
    return ok


POSES: dict[str, Any] = {
    "summary": "Every person's keypoints in one picture",
    "description": "The body is the image itself, or multipart with one `image` part. With "
    "`Accept: image/jpeg` or `image/png` the answer is the picture with boxes and skeletons.",
    "responses": _poses_answer() | _POST_PROBLEMS,
    "openapi_extra": _body(
        dict.fromkeys(_IMAGES, _BINARY) | _multipart({"type": "string", "format": "binary"})
    ),
}

BATCH: dict[str, Any] = {
    "summary": "The same for 1 to 32 pictures",
    "description": "Each result is a Poses or a problem, in the order of the parts; one bad "
    "picture does not fail the others.",
    "responses": answer(
        BatchAnswer,
        "One result per picture",
        mixed={"results": [_POSES, PROBLEMS[1].document(EXAMPLE_ID)]},
    )
    | _POST_PROBLEMS,
    "openapi_extra": _body(
        _multipart(
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 32,
                "items": {"type": "string", "format": "binary"},
            }
        )
    ),
}

MODELS: dict[str, Any] = {
    "summary": "The cards of all networks",
    "responses": answer(ModelsAnswer, "Every card", one={"models": [_CARD]}) | problems(401, 500),
}

MODEL: dict[str, Any] = {
    "summary": "The card of one network",
    "responses": answer(ModelCard, "The card", card=_CARD) | problems(401, 404, 500),
    "openapi_extra": {
        "parameters": [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    },
}

LIVEZ: dict[str, Any] = {
    "summary": "The process answers",
    "responses": answer(Health, "Alive", alive={"status": "alive"}),
}

READYZ: dict[str, Any] = {
    "summary": "Every network ran a warm-up inference and the backend is up",
    "responses": answer(Health, "Ready", ready={"status": "ready"}) | problems(503),
}

METRICS: dict[str, Any] = {
    "summary": "The metrics in Prometheus' text form",
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}
