"""The command line: parse, call, print."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from posegate.build import running_pipeline
from posegate.catalog import Catalog, load_catalog
from posegate.cli_measure import bench_command, evaluate_command
from posegate.cli_options import (
    AsJson,
    Config,
    Decode,
    Detector,
    FlipTest,
    Model,
    Repository,
    Threads,
    progress_bar,
    reported,
)
from posegate.errors import UnknownModel
from posegate.logs import configure_logs
from posegate.options import EstimateOptions
from posegate.predict import find_sources, predict, write_prediction
from posegate.server import serve
from posegate.settings import Settings, load_settings
from posegate.tables import card_rows, model_rows, print_table

app = typer.Typer(
    name="posegate",
    help="Human pose estimation: every person's 17 COCO keypoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="The networks of the model repository.", no_args_is_help=True)
app.add_typer(models, name="models")
app.command("evaluate", epilog="Example: posegate evaluate --data coco_val --boxes detector")(
    evaluate_command
)
app.command("bench", epilog="Example: posegate bench --images photos/ --quick --json")(
    bench_command
)


@app.command("serve", epilog="Example: posegate serve --port 8080 --threads 4")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port.")] = None,
    config: Config = None,
    model_repository: Repository = None,
    model: Model = None,
    detector: Detector = None,
    threads: Threads = None,
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
    """Serve HTTP until told to stop."""
    with reported():
        settings = load_settings(
            config,
            host=host,
            http_port=port,
            model_repository=model_repository,
            model=model,
            detector=detector,
            threads=threads,
            backend=backend,
            triton_urls=triton_urls,
            log_level=log_level,
        )
    if print_settings:
        print(settings.model_dump_json(indent=2))
        return
    configure_logs(settings.log_level)
    raise typer.Exit(serve(settings))


@app.command("predict", epilog="Example: posegate predict photos/ 'more/*.png' --out poses --draw")
def predict_command(
    paths: Annotated[list[str], typer.Argument(help="Files, folders and globs.")],
    out: Annotated[Path | None, typer.Option(help="Folder for one JSON file per picture.")] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Also write drawn pictures.")] = False,
    form: Annotated[
        Literal["poses", "coco"], typer.Option("--format", help="COCO results or poses.")
    ] = "poses",
    model: Model = None,
    detector: Detector = None,
    min_score: Annotated[float, typer.Option(help="Least score of a person.")] = 0.3,
    min_keypoint_score: Annotated[float, typer.Option(help="Least score of a keypoint.")] = 0.0,
    max_people: Annotated[int, typer.Option(help="Most people per picture.")] = 50,
    flip_test: FlipTest = False,
    decode: Decode = "dark",
    config: Config = None,
    model_repository: Repository = None,
    threads: Threads = None,
) -> None:
    """Write the poses of pictures. The exit status is 1 when a picture could not be used.

    Without --out the answers go to standard output: one JSON document per line, or for coco one
    JSON list.
    """
    if draw and out is None:
        raise typer.BadParameter("--draw needs --out, the folder for the drawn pictures")
    with reported():
        settings = load_settings(config, model_repository=model_repository, threads=threads)
        options = EstimateOptions(
            model=model,
            detector=detector,
            min_score=min_score,
            min_keypoint_score=min_keypoint_score,
            max_people=max_people,
            flip_test=flip_test,
            decode=decode,
        )
        failures = asyncio.run(_predict(settings, paths, options, out, form, draw))
    raise typer.Exit(1 if failures else 0)


async def _predict(
    settings: Settings,
    paths: list[str],
    options: EstimateOptions,
    out: Path | None,
    form: Literal["poses", "coco"],
    draw: bool,
) -> int:
    """How many pictures could not be used."""
    sources = find_sources(paths)
    failures, coco = 0, []
    async with running_pipeline(settings) as pipeline:
        pipeline.catalog.get(options.model, "pose")
        pipeline.catalog.get(options.detector, "detect")
        with progress_bar() as progress:
            task = progress.add_task("pictures", total=len(sources))
            answers = predict(
                pipeline, sources, options, form=form, draw=draw, ahead=2 * settings.threads
            )
            async for answer in answers:
                progress.advance(task)
                if answer.text is None:
                    failures += 1
                    progress.console.print(
                        f"{answer.source.path}: {answer.error}",
                        style="red",
                        markup=False,
                        soft_wrap=True,
                    )
                elif out is not None:
                    write_prediction(answer, out)
                elif form == "coco":
                    coco += json.loads(answer.text)
                else:
                    print(
                        json.dumps({"file": str(answer.source.path)})[:-1],
                        answer.text[1:],
                        sep=", ",
                    )
    if out is None and form == "coco":
        print(json.dumps(coco))
    return failures


@models.command("list", epilog="Example: posegate models list --json")
def models_list(
    config: Config = None, model_repository: Repository = None, as_json: AsJson = False
) -> None:
    """List the networks."""
    rows = model_rows(_catalog(config, model_repository))
    if as_json:
        print(json.dumps(rows))
    else:
        print_table("models", rows)


@models.command("show", epilog="Example: posegate models show person-detector")
def models_show(
    name: Annotated[str, typer.Argument(help="Name of the network.")],
    config: Config = None,
    model_repository: Repository = None,
    as_json: AsJson = False,
) -> None:
    """Show the card of one network."""
    catalog = _catalog(config, model_repository)
    with reported():
        if name not in catalog.models:
            known = ", ".join(catalog.models)
            raise UnknownModel(f"there is no network {name!r}; known: {known}")
    card = catalog.models[name].card
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
