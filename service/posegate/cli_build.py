"""The command that builds TensorRT plans on this machine: `posegate models build`."""

import asyncio
import importlib.util
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from posegate.catalog import Model
from posegate.cli_options import AsJson, Config, Repository, progress_bar, reported
from posegate.doctor import is_jetson
from posegate.errors import BadOption
from posegate.plan_check import made_crops, photo_crops
from posegate.plan_files import seed
from posegate.plan_loading import TritonLoader
from posegate.plans import TARGETS, Crops, Limits, PlanBuilder
from posegate.predict import find_sources
from posegate.settings import Settings, load_settings
from posegate.tables import print_table
from posegate.tensorrt_tools import TRTEXEC_PLACES, TensorRT, Trtexec, find_trtexec, gpu_sm
from posegate.types import F32


def build_command(
    names: Annotated[list[str] | None, typer.Argument(help="Networks; without, all.")] = None,
    target: Annotated[
        Literal["desktop", "jetson"], typer.Option(help="What this machine is.")
    ] = "desktop",
    precision: Annotated[
        Literal["fp32", "tf32", "fp16"], typer.Option(help="Arithmetic of the plan.")
    ] = "fp32",
    photos: Annotated[
        list[str] | None,
        typer.Option(help="Photos to check plans on, or their folder; made crops if none."),
    ] = None,
    max_pixel_diff: Annotated[
        float, typer.Option(min=0, help="Most pixels between plan and ONNX file.")
    ] = 1.0,
    min_oks: Annotated[float, typer.Option(min=0, max=1, help="Least mean OKS.")] = 0.99,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps plans; else ~/.cache/posegate/plans.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Copy the networks from this folder first.")
    ] = None,
    copy_only: Annotated[
        bool, typer.Option("--copy-only", help="With --from: copy, and build nothing.")
    ] = False,
    triton_urls: Annotated[
        str | None,
        typer.Option(help="host:port of each running Triton (gRPC) that takes the plans."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=1, help="Longest build of a plan.")] = 1800.0,
    config: Config = None,
    model_repository: Repository = None,
    as_json: AsJson = False,
) -> None:
    """Build, check and switch in TensorRT plans. The exit status is 1 where ONNX has to serve on.

    Run it on the machine that will serve: plans are tied to its GPU and its TensorRT. A Triton
    started with --model-control-mode=explicit --load-model=* serves the ONNX files meanwhile, and
    each plan from when it is there; what it refuses gives way to the former.
    """
    with reported():
        settings = load_settings(config, model_repository=model_repository, triton_urls=triton_urls)
        if copy_only and source is None:
            raise BadOption("--copy-only needs --from, the folder to copy the networks from")
        if source is not None:
            _copy(source, settings.model_repository)
        if copy_only:
            return
        _check_target(target)
        tensorrt = _find_tensorrt()
        sm = gpu_sm()
        if sm is None:
            raise BadOption("no NVIDIA GPU was found here; plans are built on the GPU they run on")
        crops, crops_are = _crops(photos or [], settings)
        builder = PlanBuilder(
            tensorrt=tensorrt,
            sm=sm,
            target=TARGETS[target],
            precision=precision,
            cache=cache or _cache_at_home(),
            limits=Limits(max_pixel_diff, min_oks),
            timeout_s=timeout_s,
            crops=crops,
            crops_are=crops_are,
            loader=TritonLoader(settings.triton_urls) if triton_urls is not None else None,
        )
        with progress_bar() as progress:
            bar = progress.add_task("plans", total=None)
            results = builder.build_all(
                settings.model_repository,
                tuple(names or ()),
                on_plan=lambda name, done, total: progress.update(
                    bar, description=name, completed=done, total=total
                ),
            )
    rows = [result.as_dict() for result in results]
    if as_json:
        print(json.dumps(rows))
    else:
        print_table(f"plans for SM {sm}, TensorRT {tensorrt.version}", rows)
    raise typer.Exit(0 if all(one.is_served for one in results) else 1)


def _copy(source: Path, repository: Path) -> None:
    if source.resolve() == repository.resolve():
        raise BadOption(
            f"--from {source} is the model repository itself; name the folder to copy to with "
            "--model-repository or POSEGATE_MODEL_REPOSITORY"
        )
    seed(source, repository)


def _cache_at_home() -> Path:
    try:
        return Path.home() / ".cache" / "posegate" / "plans"
    except RuntimeError as error:
        raise BadOption("this user has no home folder; say where to keep plans: --cache") from error


def _check_target(target: str) -> None:
    if (target == "jetson") != is_jetson():
        here = "a Jetson" if is_jetson() else f"no Jetson but {platform.machine()}"
        raise BadOption(f"--target {target}: this machine is {here}; build on the one that serves")


def _find_tensorrt() -> TensorRT:
    """trtexec where it is installed, else the Python module."""
    if (program := find_trtexec()) is not None:
        return Trtexec(program)
    if importlib.util.find_spec("tensorrt") is not None:
        from posegate.tensorrt_module import TensorRTModule

        return TensorRTModule()
    raise BadOption(
        "building plans needs TensorRT, and neither trtexec (on PATH or in "
        f"{', '.join(TRTEXEC_PLACES)}) nor the Python module tensorrt is here; "
        "use docker/plan-builder.Dockerfile, or serve the ONNX files as they are"
    )


def _crops(photos: list[str], settings: Settings) -> tuple[Callable[[Model], F32], Crops]:
    """An empty folder, as containers mount one, is no photo."""
    paths = [source.path for source in find_sources(photos) if not source.path.is_dir()]
    if not paths:
        return made_crops, "made"
    if missing := [path for path in paths if not path.is_file()]:
        raise BadOption(f"--photos {missing[0]}: there is no such picture")
    return (lambda model: asyncio.run(photo_crops(model, paths, settings))), "photos"
