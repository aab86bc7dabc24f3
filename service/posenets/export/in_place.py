"""Files of a network exchanged so that a crash at any moment leaves a repository that loads.

One card that names another file makes a whole repository be refused; a folder without a card only
lacks its own network. So the former card goes before the file and the new one comes after it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from posegate.backends.triton_config import write_config
from posegate.card import ModelCard
from posegate.catalog import CARD_NAME, ONNX_NAME, Model


def part_of(path: Path) -> Path:
    """Where to write a file until it is proven, in a folder that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.part")


@contextmanager
def proving(path: Path) -> Iterator[Path]:
    """`part_of` the file while it is proven; where that fails, nothing of it stays."""
    missing = [folder for folder in path.parents if not folder.exists()]
    part = part_of(path)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
        with suppress(OSError):  # a folder that is in use
            for folder in missing:
                folder.rmdir()


def put_in_place(
    part: Path, folder: Path, card: dict[str, Any], *, others: Mapping[Path, Path] | None = None
) -> None:
    """Make `part` the ONNX file of `folder`, with its card and Triton's `config.pbtxt`.

    Figures of the former card are kept where they were measured on the same file (sha256), and
    whether it is the default in any case. Where an earlier exchange was cut short, the former card
    is the one that was set aside. `others` go to their places while there is no card.
    """
    path = folder / CARD_NAME
    aside = path.with_name(f"{CARD_NAME}.former")
    known = path if path.exists() else aside
    former = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    kept = ["default"]
    if former.get("sha256") == card["sha256"]:
        kept += ["accuracy", "verification"]
    elif path.exists():
        path.replace(aside)
    card = card | {key: former[key] for key in kept if key in former}
    part.replace(folder / ONNX_NAME)
    for other, place in (others or {}).items():
        other.replace(place)
    write_config(Model(ModelCard.model_validate(card), folder))
    save_card(path, card)
    aside.unlink(missing_ok=True)


def save_card(path: Path, card: dict[str, Any]) -> None:
    """Write a card atomically."""
    part = part_of(path)
    part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
