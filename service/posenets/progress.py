"""Progress of long work, told on a terminal behind standard error."""

from collections.abc import Iterable
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, track

Item = TypeVar("Item")


def shown(items: Iterable[Item], description: str) -> Iterable[Item]:
    """The items, with a bar that tells how many are done."""
    return track(items, description=description, **_told())


def progress() -> Progress:
    """A bar for work that counts for itself."""
    return Progress(**_told())


def _told() -> dict[str, Any]:
    console = Console(stderr=True)
    return {"console": console, "transient": True, "disable": not console.is_terminal}
