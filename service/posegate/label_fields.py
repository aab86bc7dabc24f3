"""A row of a label file -> its fields, each of the kind and the size that it must have.

`row` is an object of the file; `where` is how a complaint, a BadOption, names it.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

from posegate.errors import BadOption

_LIMIT = 1e6
"""No coordinate lies beyond; NaN and infinity neither pass."""
_MOST = 1e12
"""No area lies beyond, and no score."""
_KINDS: dict[type, str] = {
    int: "an integer",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def check_kind(row: Mapping[str, Any], field: str, kind: type, where: str) -> Any:
    """The field, which must be of just that kind; True is no integer."""
    value = row.get(field)
    if type(value) is not kind:
        raise BadOption(f"{where}: {as_found(row, field)}; it must be {_KINDS[kind]}")
    return value


def check_integer(row: Mapping[str, Any], field: str, where: str) -> int:
    """The field, which must be an integer."""
    value: int = check_kind(row, field, int, where)
    return value


def check_number(row: Mapping[str, Any], field: str, where: str, *, optional: bool = False) -> None:
    """BadOption unless the field is a number of 0 or more, and no absurd one."""
    if optional and field not in row:
        return
    value: Any = row.get(field)
    if type(value) not in (int, float) or not 0 <= value < _MOST:
        raise BadOption(f"{where}: {as_found(row, field)}; it must be a number from 0 to {_MOST:g}")


def check_numbers(
    row: Mapping[str, Any], field: str, count: int, where: str, *, optional: bool = False
) -> None:
    """BadOption unless the field is a list of that many finite numbers."""
    if optional and field not in row:
        return
    values = check_kind(row, field, list, where)
    if len(values) != count or not all(type(v) in (int, float) for v in values):
        raise BadOption(f"{where}: {as_found(row, field)}; it must be {count} numbers")
    if not all(-_LIMIT < v < _LIMIT for v in values):
        raise BadOption(f"{where}: {field} holds NaN, infinity or a number beyond a million")


def check_sides(row: Mapping[str, Any], where: str) -> None:
    """BadOption unless the `bbox`, four numbers, has a width and a height."""
    if not min(row["bbox"][2:]) > 0:
        raise BadOption(f"{where}: bbox {row['bbox']} must have positive width and height")


def check_object(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise BadOption(f"{where} is {reprlib.repr(value)}; it must be an object")
    return value


def as_found(row: Mapping[str, Any], field: str) -> str:
    """What a complaint says of a field: its value, cut short, or that it is missing."""
    return f"{field} is {reprlib.repr(row[field]) if field in row else 'missing'}"
