"""posegate predict: pictures through our own pipeline or a service, JSON and drawings out."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from posegate.build import running_pipeline
from posegate.cli_options import (
    ApiKey,
    Ca,
    Certificate,
    Config,
    Decode,
    Detector,
    FlipTest,
    Key,
    Model,
    Repository,
    Threads,
    ended_by_sigterm,
    progress_bar,
    reported,
    tls_files,
)
from posegate.client import AsyncClient, Tls
from posegate.client.transport import Document
from posegate.options import DEFAULT_MAX_PEOPLE, EstimateOptions
from posegate.predict import (
    LARGEST_FILE,
    Estimating,
    Prediction,
    Source,
    find_sources,
    left_out,
    predict,
    write_prediction,
)
from posegate.remote import RemotePipeline
from posegate.settings import Settings, load_settings


def predict_command(
    paths: Annotated[list[str], typer.Argument(help="Files, folders and globs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for one JSON file per picture. Pictures of one name are kept apart by "
            "their folders below the one that all share, then by their suffix."
        ),
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Also write drawn pictures.")] = False,
    form: Annotated[
        Literal["poses", "coco"],
        typer.Option(
            "--format",
            help="Poses or COCO results; COCO's AP wants --min-score 0.01 --max-people 100 too. "
            "image_id is the file's name where all names are different numbers, else a count.",
        ),
    ] = "poses",
    model: Model = None,
    detector: Detector = None,
    min_score: Annotated[float, typer.Option(help="Least score of a person.")] = 0.3,
    min_keypoint_score: Annotated[float, typer.Option(help="Least score of a keypoint.")] = 0.0,
    max_people: Annotated[
        int | None, typer.Option(help=f"Most people per picture; else {DEFAULT_MAX_PEOPLE}.")
    ] = None,
    flip_test: FlipTest = False,
    decode: Decode = "dark",
    url: Annotated[
        str | None, typer.Option(help="Ask the service there: http://host:port or grpc://...")
    ] = None,
    api_key: ApiKey = None,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
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
    with reported(), ended_by_sigterm():
        settings = load_settings(
            config,
            model_repository=model_repository,
            model=model,
            detector=detector,
            threads=threads,
        )
        options = EstimateOptions(
            model=model,
            detector=detector,
            min_score=min_score,
            min_keypoint_score=min_keypoint_score,
            max_people=max_people,
            flip_test=flip_test,
            decode=decode,
        )
        pipeline = _pipeline(settings, options, url, api_key, tls_files(ca, certificate, key))
        work = partial(
            predict,
            options=options,
            form=form,
            draw=draw,
            ahead=2 * settings.threads,
            max_bytes=settings.max_body_bytes if url is None else LARGEST_FILE,
        )
        failures = asyncio.run(_predict(pipeline, paths, work, out, as_coco=form == "coco"))
    raise typer.Exit(1 if failures else 0)


@asynccontextmanager
async def _pipeline(
    settings: Settings,
    options: EstimateOptions,
    url: str | None,
    api_key: str | None,
    tls: Tls | None,
) -> AsyncIterator[Estimating]:
    """A pipeline of our own, checked to know the networks asked for, or the service at `url`."""
    if url is not None:
        async with AsyncClient(url, api_key=api_key, tls=tls) as client:
            yield RemotePipeline(client)
        return
    async with running_pipeline(settings) as pipeline:
        pipeline.check(options)
        yield pipeline


async def _predict(
    opening: AbstractAsyncContextManager[Estimating],
    paths: list[str],
    work: Callable[[Estimating, list[Source]], AsyncIterator[Prediction]],
    out: Path | None,
    *,
    as_coco: bool,
) -> int:
    """How many pictures could not be used."""
    sources = find_sources(paths)
    if others := left_out(paths):
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        print(f"left out: {counts}; JPEG, PNG and WebP are taken", file=sys.stderr)
    async with opening as pipeline:
        answers = work(pipeline, sources)
        coco: list[Document] = []
        try:
            return await _tell(answers, len(sources), out, coco if as_coco else None)
        finally:  # what is done is told, whatever ends the run
            if out is None and as_coco:
                print(json.dumps(coco))


async def _tell(
    answers: AsyncIterator[Prediction], total: int, out: Path | None, coco: list[Document] | None
) -> int:
    """Write, print or collect what came of each picture; how many could not be used."""
    failures = 0
    with progress_bar() as progress:
        task = progress.add_task("pictures", total=total)
        async for answer in answers:
            progress.advance(task)
            error = answer.error
            if answer.text is not None and out is not None:
                error = write_prediction(answer, out)
            elif answer.text is not None and coco is not None:
                coco += json.loads(answer.text)
            elif answer.text is not None:
                named = json.dumps({"file": str(answer.source.path)})
                print(named[:-1], answer.text[1:], sep=", ", flush=True)
            if error is not None:
                failures += 1
                progress.console.print(
                    f"{answer.source.path}: {error}", style="red", markup=False, soft_wrap=True
                )
    return failures
