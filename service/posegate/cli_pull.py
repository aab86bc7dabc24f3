"""The command that brings networks others publish: `posegate models pull`."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn

from posegate.catalog import CARD_NAME
from posegate.cli_options import AsJson, Config, Repository, progress_bar, reported
from posegate.published import find_published, published_networks
from posegate.pull import pull
from posegate.settings import load_settings
from posegate.tables import print_table


def _is_hash(text: str | None) -> str | None:
    """What a script left empty must not demand nothing."""
    if text is not None and not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise typer.BadParameter(f"must be a SHA-256, 64 hex digits, not {text!r}")
    return text


def pull_command(
    name: Annotated[str | None, typer.Argument(help="Network; without it, list them.")] = None,
    sha256: Annotated[
        str | None,
        typer.Option(callback=_is_hash, help="Demand this hash of the network file (hex)."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="What lies at the network's address, fetched before."
        ),
    ] = None,
    config: Config = None,
    model_repository: Repository = None,
    as_json: AsJson = False,
) -> None:
    """Bring a published network into the model repository.

    A download that breaks off is taken up again by the same command. Proxies are those of the
    environment (HTTPS_PROXY, NO_PROXY). Where the publisher cannot be reached, fetch the file on
    another machine and give it with --file.
    """
    if name is None:
        rows = [
            {
                "name": network.name,
                "task": network.facts["task"],
                "description": network.facts["description"],
                "licence": network.licence,
            }
            for network in published_networks().values()
        ]
        if as_json:
            print(json.dumps(rows))
        else:
            print_table("published networks", rows)
        return
    with reported():
        network = find_published(name)
        repository = load_settings(config, model_repository=model_repository).model_repository
        print(f"{name}: licence {network.licence}, from {network.url}", file=sys.stderr)
        was_there = (repository / name / CARD_NAME).is_file()
        with progress_bar(DownloadColumn()) as progress:
            bar = progress.add_task(name, total=None)
            model = pull(
                network,
                repository,
                sha256=sha256,
                file=file,
                on_bytes=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    if as_json:
        print(model.card.model_dump_json(exclude_none=True))
        return
    print(f"{name} {'was already' if was_there else 'is'} in {model.folder}")
    print(f"licence {model.card.licence}")
    print(
        f"sha256 {model.card.sha256}" + ("" if network.sha256 or sha256 else " (none to compare)")
    )
