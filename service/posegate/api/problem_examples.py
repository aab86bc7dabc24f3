"""Problem answers of the routes in the OpenAPI document, each with its examples."""

from collections.abc import Collection
from typing import Any

from posegate.api.problems import MEDIA_TYPE, Problem

EXAMPLE_ID = "5b0c2f4e9d1a4c6f8e7d3b2a1c0f9e8d"

PROBLEMS = (
    Problem("bad-image", "Not a readable image", 415, "the bytes are not JPEG, PNG or WebP"),
    Problem("bad-image", "Not a readable image", 422, "the JPEG is truncated; send it whole"),
    Problem("bad-option", "Invalid option", 422, "min_score must lie in [0, 1], got 7"),
    Problem("too-large", "Input over a limit", 413, "the body is over the limit of 20971520 bytes"),
    Problem("unknown-model", "Unknown model", 404, "no network 'x'; known: posefpn-small-256x192"),
    Problem(
        "unauthenticated",
        "API key needed",
        401,
        "this service needs an API key; send one of its keys as `Authorization: Bearer KEY` or as "
        "`X-API-Key: KEY`",
    ),
    Problem("upgrade-required", "Upgrade Required", 426, "This address is a WebSocket"),
    Problem("overloaded", "Too many requests", 429, "64 requests are already in flight"),
    Problem("deadline", "Deadline passed", 504, "no answer within 2 s"),
    Problem("unavailable", "Backend unavailable", 503, "the service is not ready: warming up"),
    Problem("internal", "Internal error", 500, "The service failed in a way it did not foresee."),
)


def problems(*statuses: int, without: Collection[str] = ()) -> dict[int | str, dict[str, Any]]:
    """The problem answers of a route; slugs of `without` cannot occur there."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        rows = [
            problem
            for problem in PROBLEMS
            if problem.status == status and problem.slug not in without
        ]
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
