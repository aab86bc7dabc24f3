"""What doctor finds, and the table of tested images that it is held against."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PLATFORMS = Path(__file__).with_name("platforms.toml")

Target = Literal["cpu", "desktop", "jetson"]
Verdict = Literal["ok", "absent", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `wrong` means that the service cannot work as it is set."""

    what: str
    found: str
    verdict: Verdict = "ok"


def matrix() -> dict[str, Any]:
    """The table as it is written."""
    return tomllib.loads(PLATFORMS.read_text(encoding="utf-8"))


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, which compare as versions do."""
    return tuple(map(int, re.findall(r"\d+", version)))
