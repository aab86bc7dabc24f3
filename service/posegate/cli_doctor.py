"""The command `posegate doctor`."""

import json
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from posegate.cli_options import AsJson, Config, Repository, reported
from posegate.doctor import examine
from posegate.settings import load_settings
from posegate.tables import print_table


def doctor_command(
    config: Config = None,
    model_repository: Repository = None,
    backend: Annotated[str | None, typer.Option(help="onnx or triton.")] = None,
    target: Annotated[
        Literal["cpu", "desktop", "jetson"],
        typer.Option(help="What should run the networks; with a GPU, falling back is an error."),
    ] = "cpu",
    triton_urls: Annotated[str | None, typer.Option(help="host:port of each Triton.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has and what would not work. The exit status is 1 when it cannot."""
    with reported():
        settings = load_settings(
            config,
            model_repository=model_repository,
            backend=backend,
            triton_urls=triton_urls,
        )
    findings = examine(settings, target=target)
    rows = [asdict(finding) for finding in findings]
    if as_json:
        print(json.dumps(rows))
    else:
        print_table("doctor", rows)
    raise typer.Exit(1 if any(finding.verdict == "wrong" for finding in findings) else 0)
