"""GET / and /docs: static pages that need nothing from outside the service."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Response

FOLDER = Path(__file__).parent / "web"
PAGES = {"/": "index.html", "/docs": "docs.html"}
ASSETS = ("page.js", "page.css", "skeleton.js", "docs.js")
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:",
    "X-Content-Type-Options": "nosniff",
}


def pages_router() -> APIRouter:
    """One route per file, so that the set of routes stays closed."""
    router = APIRouter(include_in_schema=False)
    for path, name in {**PAGES, **{f"/web/{name}": name for name in ASSETS}}.items():
        router.add_api_route(path, _serve(FOLDER / name), methods=["GET"])
    return router


def _serve(file: Path) -> Callable[[], Awaitable[Response]]:
    content, media_type = file.read_bytes(), TYPES[file.suffix]

    async def serve_file() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return serve_file
