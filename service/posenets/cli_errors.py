"""How every command of `posenets` says what was wrong with the user's files."""

from collections.abc import Callable
from typing import TypeVar

import typer

from posegate.errors import PosegateError
from posenets.export.onnx import ExportDiffers
from posenets.training.checkpoint import BadCheckpoint
from posenets.training.recipe import BadRecipe
from posenets.training.records import BadData

T = TypeVar("T")


def or_exit(work: Callable[[], T]) -> T:
    """Run, or say what was wrong with the user's files and exit with 1."""
    try:
        return work()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        said = f"{where}{error.strerror or error}"
        raise _exit(said) from error
    except (BadData, BadRecipe, BadCheckpoint, ExportDiffers, PosegateError) as error:
        raise _exit(str(error)) from error


def _exit(said: str) -> typer.Exit:
    typer.echo(f"error: {said}", err=True)
    return typer.Exit(1)
