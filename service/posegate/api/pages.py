"""GET /, /docs and /openapi.json: pages that need nothing from outside the service."""

import json
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

FOLDER = Path(__file__).parent / "web"
PAGES = {"/": "index.html", "/docs": "docs.html"}
ASSETS = (
    "page.js",
    "camera.js",
    "lists.js",
    "upright.js",
    "page.css",
    "skeleton.js",
    "docs.js",
)
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:",
    "X-Content-Type-Options": "nosniff",
}


def pages_router(openapi: Callable[[], dict[str, Any]]) -> APIRouter:
    """One route per file, so that the set of routes stays closed.

    `openapi` makes the OpenAPI document; it is written out once, when first asked for.
    """
    router = APIRouter(include_in_schema=False)
    document = cache(lambda: json.dumps(openapi()).encode())

    @router.get("/openapi.json")
    async def show_openapi() -> Response:
        return Response(document(), media_type="application/json")

    for path, name in {**PAGES, **{f"/web/{name}": name for name in ASSETS}}.items():
        router.add_api_route(path, _serve(FOLDER / name), methods=["GET"])
    return router


def _serve(file: Path) -> Callable[[], Awaitable[Response]]:
    content, media_type = file.read_bytes(), TYPES[file.suffix]

    async def serve_file() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return serve_file
