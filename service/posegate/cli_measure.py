"""The commands that measure: `posegate evaluate` and `posegate bench`."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from posegate.bench import CONCURRENCY, PEOPLE, bench
from posegate.build import running_pipeline
from posegate.cli_options import (
    ApiKey,
    AsJson,
    Config,
    Decode,
    Detector,
    FlipTest,
    Model,
    Repository,
    Threads,
    ended_by_sigterm,
    progress_bar,
    reported,
)
from posegate.evaluate import evaluate
from posegate.options import EstimateOptions
from posegate.settings import Settings, load_settings
from posegate.tables import print_table

COCO_BOXES = 100
"""People per picture that COCO's box figures count."""


def evaluate_command(
    data: Annotated[
        Path,
        typer.Option(help="Folder with images/ and person_keypoints.json, or COCO's label file."),
    ],
    boxes: Annotated[
        Literal["truth", "detector"], typer.Option(help="Whose boxes the pose network gets.")
    ] = "truth",
    task: Annotated[
        Literal["keypoints", "boxes"], typer.Option(help="boxes scores the detector alone.")
    ] = "keypoints",
    model: Model = None,
    detector: Detector = None,
    flip_test: FlipTest = False,
    decode: Decode = "dark",
    min_score: Annotated[float, typer.Option(help="Least score of a person.")] = 0.01,
    max_people: Annotated[
        int | None, typer.Option(help=f"Most detected people per picture; else {COCO_BOXES}.")
    ] = None,
    config: Config = None,
    model_repository: Repository = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Score the networks on labelled pictures with COCO's AP and AR."""

    async def run(settings: Settings, options: EstimateOptions) -> dict[str, Any]:
        async with running_pipeline(settings) as pipeline:
            with progress_bar() as progress:
                bar = progress.add_task("pictures", total=None)
                report = await evaluate(
                    pipeline,
                    data,
                    options,
                    boxes=boxes,
                    task=task,
                    ahead=2 * settings.threads,
                    on_photo=lambda done, total: progress.update(bar, completed=done, total=total),
                )
        return report.as_dict()

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
            flip_test=flip_test,
            decode=decode,
            min_score=min_score,
            max_people=min(COCO_BOXES, settings.max_people) if max_people is None else max_people,
        )
        report = asyncio.run(run(settings, options))
    if as_json:
        print(json.dumps(report))
        return
    keypoints, person_boxes = report.pop("keypoints"), report.pop("boxes")
    print_table("evaluated", [{"what": k, "value": v} for k, v in report.items()])
    if keypoints is not None:
        print_table("keypoints", [keypoints])
    if person_boxes is not None:
        whose = "person boxes" if task == "boxes" else "boxes of the people answered"
        print_table(whose, [person_boxes])


def bench_command(
    images: Annotated[
        list[str] | None,
        typer.Option(help="Pictures to detect people in; else a made one with given boxes."),
    ] = None,
    model: Model = None,
    url: Annotated[
        str | None, typer.Option(help="A running service, http:// only; else one is started.")
    ] = None,
    api_key: ApiKey = None,
    people: Annotated[list[int] | None, typer.Option(min=1, help="People per picture.")] = None,
    concurrency: Annotated[list[int] | None, typer.Option(min=1, help="Callers at a time.")] = None,
    seconds: Annotated[float, typer.Option(min=0.05, help="Time of each measurement.")] = 2.0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter ones.")] = False,
    config: Config = None,
    model_repository: Repository = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure latency and images per second, in process and over HTTP."""

    async def run(settings: Settings) -> list[dict[str, Any]]:
        async with running_pipeline(settings) as pipeline:
            with progress_bar() as progress:
                bar = progress.add_task("measurements", total=2 * len(counts) * len(callers))
                rows = await bench(
                    pipeline,
                    settings,
                    images=images or (),
                    model=model,
                    url=url,
                    api_key=api_key if url is not None else None,
                    people=counts,
                    concurrency=callers,
                    seconds=min(seconds, 0.3) if quick else seconds,
                    on_row=lambda _: progress.advance(bar),
                )
        return [row.as_dict() for row in rows]

    counts = people or ((1, 4) if quick else PEOPLE)
    callers = concurrency or ((1, 4) if quick else CONCURRENCY)
    with reported(), ended_by_sigterm():
        settings = load_settings(
            config, model_repository=model_repository, model=model, threads=threads
        )
        rows = asyncio.run(run(settings))
    for count in sorted(set(counts) - {row["people"] for row in rows}):
        print(f"not measured: {count} people; no picture has so many", file=sys.stderr)
    if as_json:
        print(json.dumps(rows))
    else:
        print_table("bench", rows)
