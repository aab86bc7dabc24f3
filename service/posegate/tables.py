"""Tables for a person at a terminal; `--json` prints the same facts for a program."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from posegate.card import ModelCard
from posegate.catalog import Catalog

WIDTH_IN_FILES = 120
_ANY_WIDTH = 10_000


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line per row; the keys of the first row are the columns.

    In a narrow terminal texts are folded between words; names, words and numbers get their room,
    even where lines then become longer than the terminal is wide.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(rows[0] if rows else ()):
        numeric = not isinstance(rows[0][column], str)
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*("-" if value is None else escape(str(value)) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_IN_FILES
    least = console.measure(table, options=console.options.update(width=_ANY_WIDTH)).minimum
    console.width = max(console.width, least)
    console.print(table)


def model_rows(catalog: Catalog) -> list[dict[str, Any]]:
    """What `posegate models list` says of each network."""
    return [
        {
            "name": model.name,
            "task": model.card.task,
            "default": catalog.is_default(model),
            "input": f"{model.card.input.height}x{model.card.input.width}",
            "parameters": model.card.parameters,
            "gmacs": model.card.gflops,
            "ap": _plain_ap(model.card),
            "licence": model.card.licence,
        }
        for model in catalog.models.values()
    ]


def short_model_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of it a terminal of 80 characters has room for."""
    return {
        "name": row["name"],
        "task": row["task"],
        "default": "yes" if row["default"] else "",
        "input": row["input"],
        "params": f"{row['parameters'] / 1e6:.2f} M",
        "gmacs": row["gmacs"],
        "ap": row["ap"],
    }


def card_rows(card: ModelCard) -> list[dict[str, Any]]:
    """What `posegate models show` says of one network: one row per field of the card."""
    return [
        {"field": field, "value": _readable(value)}
        for field, value in card.model_dump(mode="json", exclude_none=True).items()
    ]


def _plain_ap(card: ModelCard) -> float | None:
    """AP of true boxes, one look and DARK for keypoints; of boxes for a detector."""
    conditions = ("truth", False, "dark") if card.task == "pose" else (None, False, None)
    measured = ((row.ap, (row.boxes, row.flip_test, row.decode)) for row in card.accuracy)
    return next((ap for ap, of in measured if of == conditions), None)


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_readable(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        separator = "\n" if value and isinstance(value[0], dict) else ", "
        return separator.join(_readable(inner) for inner in value)
    return str(value)
