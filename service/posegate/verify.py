"""One network of the repository -> how far each of its forms and ways lies from the trained one.

torch against ONNX (a subprocess of posenets, where that is installed), the smaller forms
`<name>-fp16`, `<name>-int8` and the like against fp32, what arrives over HTTP or from Triton
against what comes out in this process, and what is known of a TensorRT plan.
"""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from posegate.build import running_pipeline
from posegate.card import ModelCard
from posegate.catalog import CARD_NAME, Catalog, Model, load_catalog
from posegate.errors import BadCard, BadOption
from posegate.loadclient import Connection, poses_path, running_server
from posegate.pipeline import Pipeline
from posegate.plan_check import PlanCheck
from posegate.plan_files import PLAN_NAME, RECORD_NAME, read_record
from posegate.plans import Limits
from posegate.remote import poses_of
from posegate.settings import Settings
from posegate.verify_answers import (
    Answers,
    Subject,
    ask,
    farthest_and_median,
    straight_distances,
    subject_of,
)

FORMS = ("fp16", "fp16-storage", "half-outputs", "int8", "int8-trt")
TORCH_BOUND = 1e-4
"""Of the outputs' range."""
AP_BOUND = 0.010
"""Most AP that a smaller form may lose."""
WIRE_BOUND_PX = 0.02
"""JSON keeps two decimals; the rest is float32."""
TRITON_BOUND_PX = 0.01
"""For a Triton that runs the ONNX file; a plan may differ as a smaller form may."""
_TORCH_FORM = "onnx-fp32"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table; differences as the card's `verification` has them."""

    form: str
    ok: bool
    max_abs_diff: float | None = None
    max_pixel_diff: float | None = None
    median_pixel_diff: float | None = None
    ap_diff: float | None = None
    note: str | None = None

    @property
    def checked(self) -> bool:
        """Whether a figure was measured or a fault found."""
        figures = (self.max_abs_diff, self.max_pixel_diff, self.ap_diff)
        return not self.ok or any(figure is not None for figure in figures)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def verify(
    settings: Settings,
    name: str,
    folder: Path,
    *,
    with_triton: bool = False,
    on_check: Callable[[str], None] = lambda what: None,
) -> list[Check]:
    """Check the network `name` on the labelled photos of `folder`: a pose network with their true
    boxes, a detector on the whole photos.

    `with_triton` compares with the Tritons of the settings as well. `on_check` hears what comes
    next.
    """
    catalog = _catalog_with(settings.model_repository, name)
    model = catalog.named(name)
    siblings = [f"{name}-{form}" for form in FORMS if f"{name}-{form}" in catalog.models]
    subject = subject_of(model, folder, by_ap=bool(siblings) or with_triton)
    on_check("torch")
    checks = [await _against_torch(model), *against_plan(model)]
    async with running_pipeline(settings) as pipeline:
        base = await ask(subject, pipeline, name)
        for sibling in siblings:
            on_check(sibling)
            found = await ask(subject, pipeline, sibling)
            checks.append(_form_check(sibling.removeprefix(f"{name}-"), subject, base, found))
        on_check("http")
        checks.append(await _against_http(settings, subject, base, pipeline, name))
    if with_triton:
        on_check("triton")
        async with running_pipeline(settings.model_copy(update={"backend": "triton"})) as pipeline:
            found = await ask(subject, pipeline, name)
        is_plan = await _runs_a_plan(settings.triton_urls, name)
        checks.append(_triton_check(_form_check("triton", subject, base, found), is_plan=is_plan))
    return checks


def write_checks(folder: Path, checks: Sequence[Check]) -> None:
    """Put the rows into the card of a model's folder, in place of former ones of the same form.

    A row that says that nothing was checked replaces none. Raises BadOption where the card cannot
    be written.
    """
    path = folder / CARD_NAME
    card = json.loads(path.read_text(encoding="utf-8"))
    kept = ("form", "max_abs_diff", "max_pixel_diff", "ap_diff", "note")
    rows = {row["form"]: row for row in card.get("verification", [])}
    for check in checks:
        if check.form in rows and not check.checked:
            continue
        row = {name: getattr(check, name) for name in kept}
        rows[check.form] = {name: value for name, value in row.items() if value is not None}
    card["verification"] = list(rows.values())
    ModelCard.model_validate(card)
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise BadOption(f"{path} cannot be written: {error.strerror}") from error


def against_plan(model: Model) -> Iterator[Check]:
    """What `posegate models build` measured on the plan that lies beside the ONNX file, if any."""
    version = model.onnx_path.parent
    if not (version / PLAN_NAME).is_file():
        return
    record = read_record(version)
    if record is None:
        yield Check("plan", False, note="not made by `posegate models build`, nothing known")
        return
    form = f"plan-{record.get('precision')}"
    if record.get("onnx_sha256") != model.card.sha256:
        yield Check(form, False, note="of another model.onnx: run `posegate models build`")
        return
    try:
        figures = PlanCheck(*(record[field.name] for field in fields(PlanCheck)))
    except KeyError as error:
        yield Check(form, False, note=f"its record {RECORD_NAME} lacks {error}")
        return
    where = f"SM {record.get('sm')}, TensorRT {record.get('tensorrt')}"
    note = f"{where}, on {record.get('crops')} crops; pixels of the network's input"
    reason = Limits().passed_by(figures)
    yield Check(
        form,
        reason is None,
        max_abs_diff=figures.max_abs_diff,
        max_pixel_diff=figures.max_pixel_diff,
        note=f"{reason}; {note}" if reason else note,
    )


def _catalog_with(repository: Path, name: str) -> Catalog:
    folder = repository / name
    if folder.is_dir() and not (folder / CARD_NAME).is_file():
        raise BadCard(f"{folder} has no card {CARD_NAME}; a network is served and checked by one")
    return load_catalog(repository)


async def _against_torch(model: Model) -> Check:
    missing = [name for name in ("torch", "posenets") if importlib.util.find_spec(name) is None]
    if missing:
        return Check(_TORCH_FORM, True, note=f"not checked: {missing[0]} is not installed")
    if not (model.folder / "training.pt").is_file():
        return Check(_TORCH_FORM, True, note="not checked: there is no training.pt beside the card")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "posenets", "compare", str(model.folder), "--json"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return Check(_TORCH_FORM, False, note=lines[-1])
    difference = float(f"{json.loads(said)['max_abs_diff']:.2e}")
    return Check(_TORCH_FORM, difference <= TORCH_BOUND, max_abs_diff=difference)


async def _runs_a_plan(urls: Sequence[str], name: str) -> bool:
    """Whether one of these Tritons, which have just answered, does not run the ONNX file."""
    import tritonclient.grpc.aio as triton

    backends = set()
    for url in urls:
        async with triton.InferenceServerClient(url) as client:
            backends.add((await client.get_model_config(name, client_timeout=5.0)).config.backend)
    return "tensorrt" in backends


def _triton_check(check: Check, *, is_plan: bool) -> Check:
    """A plan is judged by its AP, the ONNX file by every pixel too."""
    if is_plan:
        return replace(check, note="runs a TensorRT plan")
    assert check.max_pixel_diff is not None
    return replace(check, ok=check.ok and check.max_pixel_diff <= TRITON_BOUND_PX)


async def _against_http(
    settings: Settings, subject: Subject, base: Answers, pipeline: Pipeline, name: str
) -> Check:
    """The answers of a service in a process of its own, against those of this one."""
    distances = []
    async with AsyncExitStack() as stack:
        server = running_server(settings)
        connection = Connection(await stack.enter_async_context(server))
        await connection.open()
        stack.push_async_callback(connection.close)
        for photo, answer in zip(subject.data.photos, base, strict=True):
            options = subject.options(photo, name)
            if options is None or answer is None:
                continue
            ours = await subject.served(answer, pipeline, photo, name)
            body = await connection.estimate(poses_path(options), photo.path.read_bytes())
            theirs = subject.places(poses_of(json.loads(body)))
            distances.append(straight_distances(ours, theirs))
    farthest, median = farthest_and_median(distances)
    return Check("http", farthest <= WIRE_BOUND_PX, None, farthest, median)


def _form_check(form: str, subject: Subject, base: Answers, found: Answers) -> Check:
    lost = round(subject.ap(base) - subject.ap(found), 4)
    farthest, median = farthest_and_median(
        [
            subject.distances(ours, theirs)
            for ours, theirs in zip(base, found, strict=True)
            if ours is not None and theirs is not None
        ]
    )
    return Check(form, lost <= AP_BOUND, None, farthest, median, ap_diff=-lost or 0.0)
