"""model_repository + TensorRT -> `model.plan` beside each `model.onnx`, checked, then switched in.

A plan is kept in a cache under what it is tied to. Until a plan is in its place Triton serves the
ONNX file; a plan that replaces another leaves it as `model.plan.former`.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posegate.card import ModelCard
from posegate.catalog import CARD_NAME, Model, load_catalog, sha256_of
from posegate.errors import BadCard, BadOption, PosegateError, UnknownModel
from posegate.plan_check import PlanCheck, compare, made_crops, onnx_outputs
from posegate.tensorrt_tools import BuildJob, PlanFailed, TensorRT
from posegate.types import F32

PLAN_NAME, RECORD_NAME, CONFIG_NAME = "model.plan", "plan.json", "config.pbtxt"


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
        if not check.max_pixel_diff <= self.max_pixel_diff:
            far = f"{check.max_pixel_diff:.2f} px from the ONNX file"
            return f"{far}, {self.max_pixel_diff} is allowed; try --precision fp32"
        if check.oks is not None and check.oks < self.min_oks:
            return f"OKS {check.oks:.4f} to the ONNX file, {self.min_oks} is the least allowed"
        return None


@dataclass(frozen=True, slots=True)
class PlanResult:
    """One row of the report. `state`: published, kept (was in place), refused or failed."""

    name: str
    state: str
    check: PlanCheck | None = None
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        figures = self.check.as_dict() if self.check is not None else {}
        return {"name": self.name, "state": self.state, **figures, "note": self.note}


@dataclass(frozen=True, slots=True)
class PlanBuilder:
    """Everything that is the same for all networks of one run. `crops` makes a network's input."""

    tensorrt: TensorRT
    sm: str
    target: Target
    precision: str
    cache: Path
    limits: Limits
    timeout_s: float = 1800.0
    crops: Callable[[Model], F32] = made_crops

    def build_all(self, repository: Path, names: tuple[str, ...] = ()) -> list[PlanResult]:
        """Build, check and switch in the plans of these networks, or of all."""
        models = load_catalog(repository).models
        if unknown := set(names) - set(models):
            known = ", ".join(models)
            raise UnknownModel(f"there is no network {sorted(unknown)[0]!r}; known: {known}")
        chosen = [models[name] for name in names or models]
        return [self.build(form) for model in chosen for form in model.forms]

    def build(self, model: Model) -> PlanResult:
        """One network. What is served stays as it is unless the state is published."""
        key = self._key(model.card)
        version = model.onnx_path.parent
        try:
            _check_config(model, self.target.profile[-1])
            plan = self._cached(model, key)
            check = self._check(model, plan)
        except (PlanFailed, PosegateError) as error:
            set_aside(version, key)
            return PlanResult(model.name, "failed", note=str(error))
        if (reason := self.limits.passed_by(check)) is not None:
            set_aside(version, key)
            return PlanResult(model.name, "refused", check, reason)
        record = {**asdict(key), **check.as_dict()}
        served = version / PLAN_NAME
        if served.is_file() and sha256_of(served) == sha256_of(plan):
            _write(version / RECORD_NAME, json.dumps(record, indent=2))
            return PlanResult(model.name, "kept", check)
        switch_in(plan, record, version)
        return PlanResult(model.name, "published", check)

    def _key(self, card: ModelCard) -> PlanKey:
        profile = "-".join(map(str, self.target.profile))
        return PlanKey(card.sha256, self.tensorrt.version, self.sm, self.precision, profile)

    def _cached(self, model: Model, key: PlanKey) -> Path:
        """The plan from the cache, built when it is not there yet."""
        folder = self.cache / key.folder
        plan = folder / PLAN_NAME
        if not plan.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / PLAN_NAME
                self.tensorrt.build(self._job(model), made)
                made.replace(plan)
        return plan

    def _check(self, model: Model, plan: Path) -> PlanCheck:
        crops = self.crops(model)[: self.target.profile[-1]]
        expected = onnx_outputs(model, crops)
        return compare(model.card, expected, self.tensorrt.run(plan, model.card.input.name, crops))

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


def switch_in(plan: Path, record: dict[str, Any], version: Path) -> None:
    """Put a plan into a version folder; at no moment is there half a plan, or none after one."""
    partial = version / f".{PLAN_NAME}.partial"
    shutil.copyfile(plan, partial)
    served = version / PLAN_NAME
    if served.is_file():
        former = version / f".{PLAN_NAME}.former"
        former.unlink(missing_ok=True)
        os.link(served, former)
        former.replace(version / f"{PLAN_NAME}.former")
    partial.replace(served)
    _write(version / RECORD_NAME, json.dumps(record, indent=2))


def set_aside(version: Path, key: PlanKey) -> None:
    """Take a plan away that this machine cannot run or that is of another ONNX file."""
    record = read_record(version)
    if record is None or not (version / PLAN_NAME).is_file():
        return
    tied = {name: record.get(name) for name in ("onnx_sha256", "tensorrt", "sm")}
    if tied != {name: asdict(key)[name] for name in tied}:
        (version / PLAN_NAME).replace(version / f"{PLAN_NAME}.former")
        (version / RECORD_NAME).unlink()


def read_record(version: Path) -> dict[str, Any] | None:
    """What is known of the plan in a version folder, if it is one of ours."""
    try:
        record: dict[str, Any] = json.loads((version / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def seed(source: Path, repository: Path) -> None:
    """Copy the networks of one repository into another, so that ONNX serves while plans are built.

    Plans that are there stay.
    """
    if not source.is_dir():
        raise BadOption(f"there is no model repository at {source}")
    for onnx in sorted(source.glob("*/1/model.onnx")):
        folder = onnx.parents[1]
        target = repository / folder.name
        (target / "1").mkdir(parents=True, exist_ok=True)
        for name in ("1/model.onnx", CONFIG_NAME, CARD_NAME):
            if (folder / name).is_file():
                partial = target / f".{Path(name).name}.partial"
                shutil.copyfile(folder / name, partial)
                partial.replace(target / name)


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


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
