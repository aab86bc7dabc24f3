"""What pydantic found -> words for a person, for every file, setting and option alike."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


def fault(found: Mapping[str, Any]) -> str:
    """One of `ValidationError.errors()` in words, without the field's name."""
    if found["type"] == "extra_forbidden":
        return "there is no such field; look at its spelling"
    return str(found["msg"]).removeprefix("Value error, ")


def first_fault(error: ValidationError, whole: str) -> str:
    """`field: words` of the first fault; `whole` stands for the field where all were at fault."""
    found = error.errors()[0]
    field = ".".join(str(part) for part in found["loc"]) or whole
    return f"{field}: {fault(found)}"
