"""How every command of `posenets` says what was wrong with the user's files."""

from collections.abc import Callable
from typing import TypeVar

import typer

from posenets.training.checkpoint import BadCheckpoint
from posenets.training.recipe import BadRecipe
from posenets.training.records import BadData

T = TypeVar("T")


def or_exit(work: Callable[[], T]) -> T:
    """Run, or say what was wrong with the user's files and exit with 1."""
    try:
        return work()
    except (BadData, BadRecipe, BadCheckpoint) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
