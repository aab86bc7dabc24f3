"""The files in which several processes keep their metrics together, as prometheus_client does."""

import os
import sys
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from posegate.errors import BadOption

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder in whose files a process keeps its metrics."""
SHARED_FILES = ("counter", "histogram", "gauge_livemax", "gauge_livemin", "gauge_livesum")
"""Kinds of them, as the library names them."""
ROOM_BYTES = 2**18
"""Of one file; 40 kB hold what is told of a network."""


def take_room(shared: Path) -> None:
    """Make this process's files at their full size, so that a disk that fills up later has them.

    They are mapped into memory, where a write that the disk has no room for ends the process. Under
    its name a file is whole, since others may read it at once; one that is there already is of a
    process of the same number that is gone, and is gone on with.
    """
    try:
        for kind in SHARED_FILES:
            path = shared / f"{kind}_{os.getpid()}.db"
            if not path.exists():
                _allocate(path.with_suffix(".part")).rename(path)
    except OSError as error:
        raise BadOption(
            f"workers share their metrics in {shared}: {error.strerror}; "
            "TMPDIR may name a folder with room"
        ) from error


def forget_process(pid: int, shared: Path, *, served: bool) -> None:
    """Take a process that has ended out of the gauges; its counts stay if it ever `served`.

    Its files keep no more room than that takes: many may die within weeks.
    """
    mark_process_dead(pid, str(shared))  # type: ignore[no-untyped-call]
    for file in shared.glob(f"*_{pid}.*"):
        with file.open("rb") as held:
            used = int.from_bytes(held.read(4), sys.byteorder)  # as the library writes it
        if served and used:
            os.truncate(file, used)
        else:
            file.unlink()


def _allocate(path: Path) -> Path:
    """A file of zeros that has its room on the disk, or none."""
    try:
        with path.open("wb") as file:
            file.truncate(ROOM_BYTES)
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path
