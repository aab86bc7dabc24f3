"""Request body -> image bytes: raw or multipart, read as a stream, never past its limits."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from posegate.errors import BadImage, BadOption, TooLarge, UnknownImageFormat

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MULTIPART = "multipart/form-data"
PART_NAME = "image"
UNTOLD_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Types that say nothing about the bytes; the last is what curl declares when not told better."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it came: its bytes, and the file name if the client gave one."""

    data: bytes
    filename: str | None = None


def check_length(request: Request, *, max_bytes: int) -> None:
    """TooLarge where the declared length of the body is over the limit.

    It is asked before slots are, since such a request is not worth trying again.
    """
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)


async def read_image(request: Request, *, max_bytes: int) -> Upload:
    """The one image of a request: the body itself, or the only `image` part of a multipart body."""
    _refuse_encoded(request)
    kind = _content_type(request)
    if kind == MULTIPART:
        return (await read_images(request, max_bytes=max_bytes, max_images=1))[0]
    if not kind.startswith("image/") and kind not in UNTOLD_TYPES:
        raise UnknownImageFormat(
            f"content-type {kind[:80]!r} is not an image; send image/jpeg, image/png, image/webp "
            f"or {MULTIPART} with one part named {PART_NAME!r}"
        )
    body = bytearray()  # small chunks kept until the end would stay in the heap: twice the memory
    async for chunk in _stream(request, max_bytes):
        body += chunk
    return Upload(bytes(body))


async def read_images(request: Request, *, max_bytes: int, max_images: int) -> list[Upload]:
    """The 1 to `max_images` parts named `image` of a multipart body, in the order sent."""
    _refuse_encoded(request)
    if _content_type(request) != MULTIPART:
        raise UnknownImageFormat(
            f"this route takes {MULTIPART} with parts named {PART_NAME!r}, "
            f"not {_content_type(request)[:80]!r}"
        )
    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary")
    if not boundary:
        raise BadImage(f"the content-type {MULTIPART} names no boundary")
    parts = _Parts(max_images)
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        async for chunk in _stream(request, max_bytes):
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise BadImage(f"the multipart body is broken: {error}") from error
    if parts.uploads and not parts.complete:
        raise BadImage("the multipart body is cut off: its closing boundary is missing")
    if not parts.uploads:
        raise BadImage(f"the multipart body holds no whole part named {PART_NAME!r}")
    return parts.uploads


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refuse_encoded(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnknownImageFormat(
            f"content-encoding {encoding[:80]!r} is not taken; send the picture's bytes as they are"
        )


async def _stream(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        yield chunk
    request.state.body_read = True


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body is over the limit of {max_bytes} bytes; send a smaller or stronger compressed "
        "picture, or fewer pictures"
    )


@dataclass(slots=True)
class _Parts:
    """Collects the parts that the multipart parser reports."""

    max_images: int
    uploads: list[Upload] = field(default_factory=list)
    complete: bool = False
    _header: bytes = b""
    _value: bytes = b""
    _name: str | None = None
    _filename: str | None = None
    _data: bytearray = field(default_factory=bytearray)

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self.part_begin,
            "on_header_begin": self.header_begin,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_headers_finished": self.headers_finished,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        self._name = self._filename = None
        self._data = bytearray()

    def header_begin(self) -> None:
        self._header = self._value = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() != b"content-disposition":
            return
        _, parameters = parse_options_header(self._value)
        self._name = _text(parameters.get(b"name"))
        self._filename = _text(parameters.get(b"filename"))

    def headers_finished(self) -> None:
        if self._name != PART_NAME:
            raise BadOption(
                f"multipart part {(self._name or '')[:80]!r} is unknown; the only part name is "
                f"{PART_NAME!r}, and options go into the query"
            )
        if len(self.uploads) == self.max_images:
            raise BadOption(_too_many(self.max_images))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def part_end(self) -> None:
        self.uploads.append(Upload(bytes(self._data), self._filename))

    def end(self) -> None:
        self.complete = True


def _too_many(max_images: int) -> str:
    elsewhere = "; send several to /v1/poses:batch" if max_images == 1 else ""
    return f"too many parts: this route takes at most {max_images} image(s){elsewhere}"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
