"""One log format: posegate.logs."""

import io
import logging
from collections.abc import Iterator

import pytest

from posegate.logs import configure_logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("info", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_record_is_one_line_with_its_extras(stream: io.StringIO) -> None:
    logging.getLogger("posegate.x").info("done", extra={"ms": 3, "path": 'a "b" c', "empty": ""})
    line = stream.getvalue()
    assert line.endswith('+00:00 info posegate.x done ms=3 path="a \\"b\\" c" empty=""\n')


def test_line_breaks_from_outside_cannot_forge_a_line(stream: io.StringIO) -> None:
    logging.getLogger("x").info("a\nb", extra={"name2": "c\r\nd"})
    assert stream.getvalue().count("\n") == 1


def test_a_trace_stays_on_the_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: bad" in stream.getvalue()


def test_records_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logging.getLogger("x").debug("quiet")
    assert stream.getvalue() == ""
