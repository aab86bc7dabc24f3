"""One log format: a line of `time level logger message` and, at its end, `key=value` pairs."""

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

import cv2

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class LineFormatter(logging.Formatter):
    """Formats a record on one line; what was passed as `extra` follows as `key=value`.

    `always` follows on every line.
    """

    def __init__(self, always: Mapping[str, object]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        extra = "".join(
            f" {key}={_quoted(str(value))}"
            for key, value in {**vars(record), **self._always}.items()
            if key not in _STANDARD
        )
        line = f"{time} {record.levelname.lower()} {record.name} {_one_line(record.getMessage())}"
        if record.exc_info:
            extra += f" trace={_quoted(self.formatException(record.exc_info))}"
        return line + extra


def configure_logs(level: str, *, stream: TextIO | None = None, **always: object) -> None:
    """Send every logger of the process to one stream (stderr) in the one format.

    `always` is added to every line. OpenCV writes to stderr by itself; only its errors are let
    through, since whoever sends a bad picture is told so in the answer.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(always))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _quoted(text: str) -> str:
    text = _one_line(text)
    if text and not any(character in text for character in ' "='):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
