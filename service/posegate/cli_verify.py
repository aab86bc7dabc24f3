"""The command that checks a network against the one that was trained: `posegate models verify`."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from posegate.cli_options import (
    AsJson,
    Config,
    Repository,
    Threads,
    ended_by_sigterm,
    progress_bar,
    reported,
)
from posegate.settings import Settings, load_settings
from posegate.tables import print_table
from posegate.verify import Check, verify, write_checks


def verify_command(
    name: Annotated[str, typer.Argument(help="Network of the repository.")],
    data: Annotated[Path, typer.Option(help="Folder with images/ and person_keypoints.json.")],
    triton_urls: Annotated[
        str | None, typer.Option(help="host:port of a Triton (gRPC) to compare with as well.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the rows into the card.")] = False,
    config: Config = None,
    model_repository: Repository = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compare torch, ONNX, its smaller forms and the service; exit status 1 where one is too far.

    torch and ONNX may differ by 1e-4 of the outputs' range, a smaller form or a plan in Triton may
    lose 0.010 of AP, and an answer over HTTP may lie 0.02 px, one of the ONNX file in Triton
    0.01 px from the one in this process. Pixels are the photo's.
    """

    async def run(settings: Settings) -> list[Check]:
        with progress_bar() as progress:
            bar = progress.add_task("verify", total=None)
            return await verify(
                settings,
                name,
                data,
                with_triton=triton_urls is not None,
                on_check=lambda what: progress.update(bar, description=what),
            )

    with reported(), ended_by_sigterm():
        settings = load_settings(
            config, model_repository=model_repository, threads=threads, triton_urls=triton_urls
        )
        checks = asyncio.run(run(settings))
    rows = [check.as_dict() for check in checks]
    if as_json:
        print(json.dumps(rows))
    else:
        print_table(name, [{**row, "ok": "yes" if row["ok"] else "NO"} for row in rows])
    if write:
        with reported():
            write_checks(settings.model_repository / name, checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
