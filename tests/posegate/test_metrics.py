"""Metric names of the contract: posegate.metrics and posegate.stages."""

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from posegate import errors
from posegate.api import messages
from posegate.api.problems import INTERNAL, problem_of
from posegate.errors import PosegateError, status_of
from posegate.metric_files import ROOM_BYTES, SHARED_FILES, SHARED_FOLDER, forget_process
from posegate.metrics import DROP_REASONS, REFUSALS, Metrics
from posegate.stages import StageClock

CONTRACT = {
    "posegate_request_seconds": ("face", "route", "code"),
    "posegate_stage_seconds": ("stage", "model"),
    "posegate_people_per_image": (),
    "posegate_crops_per_batch": ("model",),
    "posegate_in_flight": ("face",),
    "posegate_queue_age_seconds": ("model",),
    "posegate_frames_dropped_total": ("reason",),
    "posegate_rejected_total": ("reason",),
    "posegate_backend_up": ("backend",),
    "posegate_model_info": ("model", "backend", "precision", "provider", "sha256"),
}


def test_every_metric_of_the_contract_is_there_with_its_labels() -> None:
    metrics = Metrics()
    text = generate_latest(metrics.registry).decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {name for name in families if not name.endswith("_created")} == set(CONTRACT)
    for metric in vars(metrics).values():
        name = getattr(metric, "_name", None)
        if name is not None:
            labels = CONTRACT.get(name, CONTRACT.get(f"{name}_total"))
            assert metric._labelnames == labels


def kinds(error: type[PosegateError]) -> set[type[PosegateError]]:
    """Every error below this one that the service may answer with; commands have their own."""
    below = {kind for kind in error.__subclasses__() if kind.__module__ == errors.__name__}
    return below.union(*(kinds(kind) for kind in below))


def test_counters_by_reason_begin_at_zero_for_every_reason() -> None:
    slugs = {status_of(kind("x")).slug for kind in kinds(PosegateError)} | {INTERNAL.slug}
    of_http = (400, 404, 405, 408, 414, 426, 431)
    slugs |= {problem_of(HTTPException(status)).slug for status in of_http}
    assert set(REFUSALS) == slugs
    assert set(messages.DROP_REASONS) == set(DROP_REASONS)
    registry = Metrics().registry
    for metric, reasons in (("rejected", REFUSALS), ("frames_dropped", DROP_REASONS)):
        for reason in reasons:
            labels = {"reason": reason}
            assert registry.get_sample_value(f"posegate_{metric}_total", labels) == 0, reason


def test_two_sets_of_metrics_do_not_meet() -> None:
    first, second = Metrics(), Metrics()
    first.people_per_image.observe(1)
    assert second.registry.get_sample_value("posegate_people_per_image_count") == 0


def test_stages_are_observed_in_seconds() -> None:
    metrics = Metrics()
    metrics.observe_image("m", {"decode": 20.0}, people=0)
    labels = {"stage": "decode", "model": "m"}
    total = metrics.registry.get_sample_value("posegate_stage_seconds_sum", labels)
    assert total == 0.02


def test_stages_add_up_to_the_total_without_gaps() -> None:
    times = iter([10.0, 10.5, 12.0, 12.25])
    clock = StageClock(now=lambda: next(times))
    clock.mark("read")
    clock.attribute("queue", 0.5)
    clock.mark("infer")
    clock.mark("encode")
    assert clock.stages_ms == {"read": 500.0, "queue": 500.0, "infer": 1000.0, "encode": 250.0}
    assert clock.total_ms == 2250.0


def test_a_watched_gauge_follows_its_function() -> None:
    metrics = Metrics()
    up = [1.0]
    metrics.watch(metrics.backend_up, "triton", value=lambda: up[0])
    labels = {"backend": "triton"}
    assert metrics.registry.get_sample_value("posegate_backend_up", labels) == 1
    up[0] = 0.0
    assert metrics.registry.get_sample_value("posegate_backend_up", labels) == 0


def sharing(folder: Path, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program that shares its metrics in the folder, which is its first argument."""
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, SHARED_FOLDER: str(folder), "PYTHONPATH": paths}
    command = [sys.executable, "-c", program, str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_processes_that_share_metrics_add_up(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from posegate.metrics import Metrics
metrics = Metrics(shared=Path(sys.argv[1]))
metrics.people_per_image.observe(3)
metrics.frames_dropped.labels(reason="busy").inc(2)
metrics.in_flight.labels(face="http").inc()
metrics.watch(metrics.backend_up, "triton", value=lambda: float(sys.argv[2]))
assert 'backend_up{backend="triton"} 0.0' not in metrics.exposition().decode()  # no say yet
metrics.refresh()
sys.stdout.write(metrics.exposition().decode())
"""
    for up in ("1", "0"):
        done = sharing(tmp_path, program, up)
    lines = done.stdout.splitlines()
    assert "posegate_people_per_image_count 2.0" in lines
    assert 'posegate_frames_dropped_total{reason="busy"} 4.0' in lines
    assert 'posegate_backend_up{backend="triton"} 0.0' in lines  # one of them sees it down
    for file in tmp_path.glob("gauge_livesum_*.db"):
        forget_process(int(file.stem.rpartition("_")[2]), tmp_path, served=True)
    assert not list(tmp_path.glob("gauge_live*.db"))
    assert list(tmp_path.glob("counter_*.db"))


def test_processes_that_are_gone_take_no_more_room_than_what_they_counted(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from posegate.metric_files import forget_process
from posegate.metrics import Metrics
metrics = Metrics(shared=Path(sys.argv[1]))
metrics.people_per_image.observe(3)
if sys.argv[2] == "forget":
    for file in Path(sys.argv[1]).glob("histogram_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        forget_process(pid, Path(sys.argv[1]), served=pid != os.getpid())
    sys.stdout.write(metrics.exposition().decode())
"""
    sharing(tmp_path, program, "")
    told = sharing(tmp_path, program, "forget").stdout
    assert "posegate_people_per_image_count 1.0" in told.splitlines()
    kinds = [file.name.rpartition("_")[0] for file in tmp_path.iterdir()]
    assert sorted(kinds) == ["counter", "histogram"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < ROOM_BYTES / 4


def test_the_disk_holds_shared_metrics_whole_before_they_are_written(tmp_path: Path) -> None:
    """A page that it had no room for would end the process amid a write."""
    program = """
import sys
from pathlib import Path
from posegate.metrics import Metrics
metrics = Metrics(shared=Path(sys.argv[1]))
for gauge in (metrics.in_flight, metrics.backend_up):
    gauge.labels("http").set(1)
metrics.model_info.labels(*"mbpqs").set(1)
for model in ("detector", "small", "large"):
    metrics.observe_image(model, dict.fromkeys(("decode", "detect", "infer"), 1.0), 1)
"""
    sharing(tmp_path, program)
    files = {file.name.rpartition("_")[0]: file.stat() for file in tmp_path.iterdir()}
    assert set(files) == set(SHARED_FILES)
    for held in files.values():
        assert held.st_blocks * 512 >= held.st_size == ROOM_BYTES


def test_a_disk_without_room_for_shared_metrics_is_told(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from posegate.errors import BadOption
from posegate.metrics import Metrics
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Metrics(shared=Path(sys.argv[1]))
except BadOption as error:
    sys.stdout.write(error.detail)
"""
    told = sharing(tmp_path, program).stdout
    assert told.startswith(f"workers share their metrics in {tmp_path}: File too large")
    assert not list(tmp_path.iterdir())  # half a file would fail whoever reads them all
