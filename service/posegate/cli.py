"""The command line: parse, call, print."""

import json
from pathlib import Path
from typing import Annotated

import typer

from posegate.backends.onnx import refuse_misfit
from posegate.catalog import Catalog, load_catalog
from posegate.cli_build import build_command
from posegate.cli_doctor import doctor_command
from posegate.cli_measure import bench_command, evaluate_command
from posegate.cli_options import (
    AsJson,
    Config,
    Detector,
    Model,
    Repository,
    Threads,
    reported,
)
from posegate.cli_predict import predict_command
from posegate.cli_pull import pull_command
from posegate.cli_stream import stream_command
from posegate.cli_verify import verify_command
from posegate.logs import configure_logs
from posegate.server import serve
from posegate.settings import load_settings
from posegate.tables import card_rows, model_rows, print_table, short_model_row
from posegate.version import installed_version

app = typer.Typer(
    name="posegate",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="The networks of the model repository.", no_args_is_help=True)
app.add_typer(models, name="models")
models.command("build", epilog="Example: posegate models build --target jetson --precision fp16")(
    build_command
)
models.command("pull", epilog="Example: posegate models pull rtmpose-s")(pull_command)
models.command(
    "verify", epilog="Example: posegate models verify posefpn-small-256x192 --data coco_val --write"
)(verify_command)
app.command("evaluate", epilog="Example: posegate evaluate --data coco_val --boxes detector")(
    evaluate_command
)
app.command("doctor", epilog="Example: posegate doctor --backend triton --json")(doctor_command)
app.command("bench", epilog="Example: posegate bench --images photos/ --quick --json")(
    bench_command
)
app.command("predict", epilog="Example: posegate predict photos/ 'more/*.png' --out poses --draw")(
    predict_command
)
app.command("stream", epilog="Example: posegate stream walk.mp4 --track --draw drawn.mp4")(
    stream_command
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"posegate {installed_version()}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Human pose estimation: every person's 17 COCO keypoints."""


@app.command("serve", epilog="Example: posegate serve --port 8080 --threads 4")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port.")] = None,
    config: Config = None,
    model_repository: Repository = None,
    model: Model = None,
    detector: Detector = None,
    threads: Threads = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that serve; they share the cores.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="What runs the networks: onnx (in here) or triton.")
    ] = None,
    triton_urls: Annotated[
        str | None, typer.Option(help="host:port of each Triton (gRPC), comma-separated.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Show the settings in force and stop.")
    ] = False,
) -> None:
    """Serve HTTP and gRPC until told to stop."""
    with reported():
        settings = load_settings(
            config,
            host=host,
            http_port=port,
            grpc_port=grpc_port,
            model_repository=model_repository,
            model=model,
            detector=detector,
            threads=threads,
            workers=workers,
            backend=backend,
            triton_urls=triton_urls,
            log_level=log_level,
        )
    if print_settings:
        print(settings.model_dump_json(indent=2))
        return
    configure_logs(settings.log_level)
    raise typer.Exit(serve(settings))


@models.command("list", epilog="Example: posegate models list --json")
def models_list(
    config: Config = None, model_repository: Repository = None, as_json: AsJson = False
) -> None:
    """List the networks."""
    rows = model_rows(_catalog(config, model_repository))
    if as_json:
        print(json.dumps(rows))
    else:
        print_table("models", [short_model_row(row) for row in rows])
        print("ap: of keypoints with true boxes and no flip test; of boxes for a detector")


@models.command("show", epilog="Example: posegate models show person-detector")
def models_show(
    name: Annotated[str, typer.Argument(help="Name of the network.")],
    config: Config = None,
    model_repository: Repository = None,
    as_json: AsJson = False,
) -> None:
    """Show the card of one network, once its file has been seen to do what the card says.

    `default` says which network serves now, whatever the file says.
    """
    catalog = _catalog(config, model_repository)
    with reported():
        model = catalog.named(name)
        refuse_misfit(model)
    card = catalog.card_in_use(model)
    if as_json:
        print(card.model_dump_json(exclude_none=True))
    else:
        print_table(name, card_rows(card))


def _catalog(config: Path | None, repository: Path | None) -> Catalog:
    with reported():
        settings = load_settings(config, model_repository=repository)
        return load_catalog(
            settings.model_repository, model=settings.model, detector=settings.detector
        )
