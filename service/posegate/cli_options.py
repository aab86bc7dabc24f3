"""Options that several commands share, and how a command reports progress and errors."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from posegate.client import Tls
from posegate.errors import PosegateError

Config = Annotated[Path | None, typer.Option(help="TOML file with settings.")]
Repository = Annotated[
    Path | None, typer.Option("--model-repository", help="Folder with the networks.")
]
Threads = Annotated[int | None, typer.Option(help="Cores the networks may use.")]
Model = Annotated[str | None, typer.Option(help="Pose network; else the default one.")]
Detector = Annotated[str | None, typer.Option(help="Person detector; else the default one.")]
FlipTest = Annotated[bool, typer.Option("--flip-test", help="Average with the mirrored crop.")]
Decode = Annotated[
    Literal["dark", "quarter", "argmax"], typer.Option(help="How a heatmap becomes a position.")
]
ApiKey = Annotated[
    str | None, typer.Option(envvar="POSEGATE_API_KEY", help="API key of the service at --url.")
]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", help="PEM file with the authority of the service's certificate."),
]
Certificate = Annotated[
    Path | None, typer.Option("--certificate", help="PEM file to show a service that asks for one.")
]
Key = Annotated[Path | None, typer.Option("--key", help="PEM file, the key of --certificate.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def progress_bar(count: ProgressColumn | None = None) -> Progress:
    """A bar on standard error, so that standard output stays clean; `count` is how it counts."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        count or MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
    )


def tls_files(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    """What the three options ask of the client; None when none was given."""
    given = any(path is not None for path in (ca, certificate, key))
    return Tls(ca, certificate, key) if given else None


@contextmanager
def reported() -> Iterator[None]:
    """An error meant for the caller, or about a file that the caller may not look at, becomes one
    line and exit status 2."""
    try:
        yield
    except PosegateError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        raise typer.Exit(2) from error
    except PermissionError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        raise typer.Exit(2) from error


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends what runs as Ctrl-C does: files and services of its own are closed."""
    former = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by the shell of a script, behind an &
        signal.default_int_handler(number, frame)
    signal.raise_signal(signal.SIGINT)
