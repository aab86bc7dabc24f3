"""Errors a caller can meet, and the one table that turns each into an HTTP status and a gRPC code.

PosegateError
├── BadImage               the bytes are an image we know, but broken, empty or animated
│   └── UnknownImageFormat the bytes are not JPEG, PNG or WebP at all
├── TooLarge               over a byte or pixel limit
├── BadOption              a query option, box or setting is out of its range
├── UnknownModel           no such model in the repository
├── Overloaded             a bounded queue is full; try again
├── DeadlineExceeded       the caller's or the server's deadline passed
├── BackendDown            the network cannot be reached or is not ready; try again
├── Unauthenticated        API key missing or wrong
└── BadCard                a model card does not fit its file; the service refuses to start
"""

from dataclasses import dataclass


class PosegateError(Exception):
    """Anything the service refuses or fails at, with a sentence written for the caller.

    `detail` says what was wrong, what is allowed and what to change. `retry_after_s`, in seconds,
    is set where trying again makes sense.
    """

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class BadImage(PosegateError):
    """The bytes are of a known image format but cannot be used."""


class UnknownImageFormat(BadImage):
    """The bytes are not a format the service reads."""


class TooLarge(PosegateError):
    """A byte or pixel limit was passed."""


class BadOption(PosegateError):
    """An option, a box or a setting lies outside what is allowed."""


class UnknownModel(PosegateError):
    """The model repository holds no model of that name and task."""


class Overloaded(PosegateError):
    """A bounded queue is full or the work could not start in time."""


class DeadlineExceeded(PosegateError):
    """The deadline passed before the answer was ready."""


class BackendDown(PosegateError):
    """The backend cannot run the network now."""


class Unauthenticated(PosegateError):
    """The API key is missing or wrong."""


class BadCard(PosegateError):
    """A model card is unreadable or does not agree with its network file."""


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """How one error class looks on the wire. `slug` is the stable problem type (RFC 9457)."""

    slug: str
    title: str
    http: int
    grpc: str
    retryable: bool


_STATUS: dict[type[PosegateError], ErrorStatus] = {
    BadImage: ErrorStatus("bad-image", "Not a readable image", 422, "INVALID_ARGUMENT", False),
    UnknownImageFormat: ErrorStatus(
        "bad-image", "Not a readable image", 415, "INVALID_ARGUMENT", False
    ),
    TooLarge: ErrorStatus("too-large", "Input over a limit", 413, "RESOURCE_EXHAUSTED", False),
    BadOption: ErrorStatus("bad-option", "Invalid option", 422, "INVALID_ARGUMENT", False),
    UnknownModel: ErrorStatus("unknown-model", "Unknown model", 404, "NOT_FOUND", False),
    Overloaded: ErrorStatus("overloaded", "Too many requests", 429, "RESOURCE_EXHAUSTED", True),
    DeadlineExceeded: ErrorStatus("deadline", "Deadline passed", 504, "DEADLINE_EXCEEDED", False),
    BackendDown: ErrorStatus("unavailable", "Backend unavailable", 503, "UNAVAILABLE", True),
    Unauthenticated: ErrorStatus(
        "unauthenticated", "API key needed", 401, "UNAUTHENTICATED", False
    ),
    BadCard: ErrorStatus("unavailable", "Model unavailable", 503, "UNAVAILABLE", False),
}

BY_SLUG = {status.slug: error for error, status in reversed(_STATUS.items())}
"""The error that each problem type stands for; where several share one, the first of the table."""
SLUGS = tuple(dict.fromkeys(status.slug for status in _STATUS.values()))
"""Every problem type of the table."""


def status_of(error: PosegateError) -> ErrorStatus:
    """Wire status of an error: that of its class or of the nearest class above it.

    Raises KeyError for errors that no service answers with, such as a failed download.
    """
    for cls in type(error).__mro__:
        if cls in _STATUS:
            return _STATUS[cls]
    raise KeyError(f"no status for {type(error).__name__}")
