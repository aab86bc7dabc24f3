"""What the OpenAPI document says of each route beyond its signature: bodies, answers, examples."""

from typing import Any

from pydantic.json_schema import models_json_schema

from posegate.api.guard import GUARDED
from posegate.api.problem_examples import EXAMPLE_ID, PROBLEMS, problems
from posegate.api.schemas import BatchAnswer, CocoResult, Health, ModelsAnswer, PosesAnswer, Ready
from posegate.api.stream_schemas import MESSAGES
from posegate.card import ModelCard
from posegate.skeleton import COCO_KEYPOINTS

TEMPLATE = "#/components/schemas/{model}"
KEYS: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Where the service has keys."},
    "apiKey": {
        "type": "apiKey", "in": "header", "name": "X-API-Key",
        "description": "The same key, in a header of its own.",
    },
}  # fmt: skip
SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"apiKey": []}]

_PERSON = {
    "score": 0.93,
    "box": [12.0, 40.5, 210.3, 400.9],
    "keypoints": {"nose": [101.2, 77.9, 0.88], "left_eye": [106.0, 73.1, 0.91]},
}
POSES_EXAMPLE: dict[str, Any] = {
    "model": "litedeconv-256x192",
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
    "default": False,
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


def reference(model: str) -> dict[str, str]:
    """A reference to the schema of that name."""
    return {"$ref": TEMPLATE.format(model=model)}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what signatures do not say: API keys, and the messages of the stream.

    A key is needed only where keys are set, so that each is a choice beside none.
    """
    _, messages = models_json_schema([(m, "validation") for m in MESSAGES], ref_template=TEMPLATE)
    components = document["components"]
    schemas = {**messages["$defs"], **components["schemas"]}
    paths = {
        path: {method: _with_keys(path, route) for method, route in methods.items()}
        for path, methods in document["paths"].items()
    }
    components = {**components, "schemas": schemas, "securitySchemes": KEYS}
    return {**document, "paths": paths, "components": components}


def _with_keys(path: str, route: dict[str, Any]) -> dict[str, Any]:
    return {**route, "security": SECURITY} if path.startswith(GUARDED) else route


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
        poses=POSES_EXAMPLE,
        nobody={**POSES_EXAMPLE, "people": []},
        coco=_COCO,
    )
    ok[200]["content"] |= {"image/jpeg": _BINARY, "image/png": _BINARY}
    return ok


POSES: dict[str, Any] = {
    "summary": "Every person's keypoints in one picture",
    "description": "The body is the image itself, or multipart with one `image` part. With "
    "`Accept: image/jpeg` or `image/png` (`image/*` means JPEG) the answer is the picture with "
    "boxes and skeletons, but for joints of a score below 0.2; that wins over `format`, so that "
    "`format=coco` gets a picture as well.",
    "responses": _poses_answer() | _POST_PROBLEMS,
    "openapi_extra": _body(
        dict.fromkeys(_IMAGES, _BINARY) | _multipart({"type": "string", "format": "binary"})
    ),
}

BATCH: dict[str, Any] = {
    "summary": "The same for 1 to 32 pictures",
    "description": "Each result is a Poses or a problem, in the order of the parts; one bad "
    "picture does not fail the others. The answer is JSON whatever `Accept` says: drawn pictures "
    "come from `/v1/poses` alone.",
    "responses": answer(
        BatchAnswer,
        "One result per picture",
        mixed={"results": [POSES_EXAMPLE, PROBLEMS[1].document(EXAMPLE_ID)]},
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
    "summary": "The networks ran a warm-up inference and the backend is up",
    "responses": answer(
        Ready,
        "Ready; requests that name a missing network get 503",
        ready={"status": "ready"},
        missing={"status": "ready", "missing": "network mine: no Triton has it"},
    )
    | problems(503),
}

METRICS: dict[str, Any] = {
    "summary": "The metrics in Prometheus' text form",
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}
