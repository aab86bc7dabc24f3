"""model_repository + TensorRT -> `model.plan` beside each `model.onnx`, checked, then switched in.

A plan is kept in a cache under what it is tied to. Until a plan is in its place, and where none can
be, Triton serves the ONNX file.
"""

import math
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from posegate.card import ModelCard
from posegate.catalog import CONFIG_NAME, Model, load_catalog, sha256_of
from posegate.errors import BadCard, PosegateError
from posegate.plan_check import PlanCheck, compare, made_crops, onnx_outputs
from posegate.plan_files import (
    PLAN_NAME,
    read_record,
    remove,
    set_aside,
    switch_in,
    write_record,
)
from posegate.plan_loading import Loader, LoadRefused, NotLoaded, fall_back, try_to_load
from posegate.tensorrt_tools import BuildJob, PlanFailed, TensorRT
from posegate.types import F32

Crops = Literal["photos", "made"]


@dataclass(frozen=True, slots=True)
class Target:
    """How plans are built for one kind of machine: crops per batch, and scratch memory."""

    profile: tuple[int, int, int]
    workspace_mib: int


TARGETS = {"desktop": Target((1, 8, 32), 4096), "jetson": Target((1, 4, 32), 1024)}


@dataclass(frozen=True, slots=True)
class PlanKey:
    """What a plan is tied to; `profile` is least-best-most crops, `sm` the compute capability."""

    onnx_sha256: str
    tensorrt: str
    sm: str
    precision: str
    profile: str

    @property
    def folder(self) -> str:
        rest = f"trt{self.tensorrt}-sm{self.sm}-{self.precision}-{self.profile}"
        return f"{self.onnx_sha256}-{rest}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a plan may lie from its ONNX file: input pixels, and mean OKS of keypoints."""

    max_pixel_diff: float = 1.0
    min_oks: float = 0.99

    def passed_by(self, check: PlanCheck) -> str | None:
        """None for a plan that may be served, else why not."""
        if not math.isfinite(check.max_pixel_diff):
            return "its outputs are no finite numbers, or not the ONNX file's; try --precision fp32"
        if check.max_pixel_diff > self.max_pixel_diff:
            far = f"{check.max_pixel_diff:.2f} px from the ONNX file"
            return f"{far}, {self.max_pixel_diff} is allowed; try --precision fp32"
        if check.oks is not None and check.oks < self.min_oks:
            return f"OKS {check.oks:.4f} to the ONNX file, {self.min_oks} is the least allowed"
        return None


@dataclass(frozen=True, slots=True)
class PlanResult:
    """One row of the report; `crops` are those that the plan was checked on.

    `state`: published, kept (was in place), refused (by the check or by Triton), failed, or
    unloaded (in place, but a Triton could not be told).
    """

    name: str
    state: str
    crops: Crops
    check: PlanCheck | None = None
    note: str | None = None

    @property
    def is_served(self) -> bool:
        return self.state in ("published", "kept")

    def as_dict(self) -> dict[str, Any]:
        unchecked = dict.fromkeys(field.name for field in fields(PlanCheck))
        figures = unchecked if self.check is None else self.check.as_dict()
        facts = {"name": self.name, "state": self.state, "crops": self.crops}
        return {**facts, **figures, "note": self.note}


class CannotRun(PlanFailed):
    """A plan that was built on this machine does not run on it."""


@dataclass(frozen=True, slots=True)
class PlanBuilder:
    """Everything that is the same for all networks of one run.

    `crops` makes a network's input, from what `crops_are` says; `loader` tells running Tritons of
    the plans.
    """

    tensorrt: TensorRT
    sm: str
    target: Target
    precision: str
    cache: Path
    limits: Limits
    timeout_s: float = 1800.0
    crops: Callable[[Model], F32] = made_crops
    crops_are: Crops = "made"
    loader: Loader | None = None

    def build_all(
        self,
        repository: Path,
        names: tuple[str, ...] = (),
        *,
        on_plan: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> list[PlanResult]:
        """Build, check and switch in the plans of these networks, or of all.

        `on_plan` hears whose turn it is, how many are done and of how many.
        """
        catalog = load_catalog(repository)
        chosen = [form for name in names or catalog.models for form in catalog.named(name).forms]
        for model in chosen:  # before the first build, which takes minutes
            self._set_aside_if_foreign(model)
        results = []
        for done, model in enumerate(chosen):
            on_plan(model.name, done, len(chosen))
            results.append(self._build(model))
        return results

    def _set_aside_if_foreign(self, model: Model) -> None:
        """A plan of another file, TensorRT or GPU cannot be loaded: ONNX has to serve."""
        version = model.onnx_path.parent
        if _is_tied(version, self._key(model.card), "onnx_sha256", "tensorrt", "sm") is False:
            set_aside(version)
            self._try_to_load(model)

    def _build(self, model: Model) -> PlanResult:
        """Build one network's plan and put it in its place if it passes.

        Where it does not, what was served stays, unless it is this very plan.
        """
        key = self._key(model.card)
        version = model.onnx_path.parent
        result = PlanResult(model.name, "failed", self.crops_are)
        try:
            _check_config(model, self.target.profile[-1])
            plan, check = self._checked(model, key)
        except CannotRun as error:
            return self._withdrawn(model, key, replace(result, note=str(error)))
        except (PlanFailed, PosegateError) as error:
            return replace(result, note=str(error))
        result = replace(result, check=check)
        if (reason := self.limits.passed_by(check)) is not None:
            return self._withdrawn(model, key, replace(result, state="refused", note=reason))
        record = {**asdict(key), **check.as_dict(), "crops": self.crops_are}
        served = version / PLAN_NAME
        if served.is_file() and sha256_of(served) == sha256_of(plan):
            write_record(version, record)
            return self._in_service(model, replace(result, state="kept"))
        switch_in(plan, record, version)
        return self._in_service(model, replace(result, state="published"))

    def _key(self, card: ModelCard) -> PlanKey:
        profile = "-".join(map(str, self.target.profile))
        return PlanKey(card.sha256, self.tensorrt.version, self.sm, self.precision, profile)

    def _checked(self, model: Model, key: PlanKey) -> tuple[Path, PlanCheck]:
        """The plan and how far it lies from the ONNX file.

        One from the cache that does not run, after a new driver perhaps, is built once more.
        """
        crops = self.crops(model)[: self.target.profile[-1]]
        expected = onnx_outputs(model, crops)
        plan = self.cache / key.folder / PLAN_NAME
        run = partial(self.tensorrt.run, plan, model.card.input.name, crops)
        outputs = None
        if plan.is_file():
            with suppress(PlanFailed):
                outputs = run()
        if outputs is None:
            self._build_into(plan, model)
            try:
                outputs = run()
            except PlanFailed as error:
                plan.unlink()
                raise CannotRun(str(error)) from error
        return plan, compare(model.card, expected, outputs)

    def _build_into(self, plan: Path, model: Model) -> None:
        plan.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=plan.parent) as scratch:
            made = Path(scratch) / PLAN_NAME
            self.tensorrt.build(self._job(model), made)
            made.replace(plan)

    def _withdrawn(self, model: Model, key: PlanKey, result: PlanResult) -> PlanResult:
        """Where the very same plan is being served, take it away."""
        version = model.onnx_path.parent
        if not _is_tied(version, key, *asdict(key)):
            return result
        remove(version)
        self._try_to_load(model)
        return replace(result, note=f"{result.note}; it was served and was taken away")

    def _in_service(self, model: Model, result: PlanResult) -> PlanResult:
        """Have running Tritons take the plan, or go back to what they take."""
        if self.loader is None:
            return result
        try:
            self.loader.load(model.name)
        except NotLoaded as error:
            return replace(result, state="unloaded", note=str(error))
        except LoadRefused as error:
            note = f"{error}; {fall_back(self.loader, model)}"
            return replace(result, state="refused", note=note)
        return result

    def _try_to_load(self, model: Model) -> None:
        """The ONNX file has to serve; that a Triton cannot be told does not stop the build."""
        if self.loader is not None:
            try_to_load(self.loader, model.name)

    def _job(self, model: Model) -> BuildJob:
        return BuildJob(
            onnx=model.onnx_path,
            input_name=model.card.input.name,
            shape=model.card.input_shape,
            precision=self.precision,
            profile=self.target.profile,
            workspace_mib=self.target.workspace_mib,
            timeout_s=self.timeout_s,
        )


def _is_tied(version: Path, key: PlanKey, *names: str) -> bool | None:
    """Whether the plan in a version folder agrees with these parts of a key.

    None where there is none, or nothing is known of it.
    """
    record = read_record(version)
    if record is None or not (version / PLAN_NAME).is_file():
        return None
    return all(record.get(name) == getattr(key, name) for name in names)


def _check_config(model: Model, most: int) -> None:
    path = model.folder / CONFIG_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadCard(f"{path} cannot be read: {error.strerror}") from error
    found = re.search(r"^\s*max_batch_size:\s*(\d+)", text, re.M)
    if found is None or not 1 <= int(found[1]) <= most:
        asked = found[1] if found else "none"
        raise BadCard(f"{path} has max_batch_size {asked}; a plan takes batches of 1 to {most}")
    if named := re.search(r"^\s*(platform|backend):", text, re.M):
        raise BadCard(f"{path} names a {named[1]}, so that a plan would not be served; remove it")
