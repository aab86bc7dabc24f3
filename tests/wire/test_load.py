"""The claims about load that hold on any machine, by the benchmarks themselves, kept short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[2] / "benchmarks"
MAX_MEMORY_MB = 60.0


def rows(program: str, repository: Path, *arguments: str) -> list[dict]:
    command = [sys.executable, str(PROGRAMS / program), "--repository", str(repository), "--json"]
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("face", ["http", "grpc"])
def test_an_overloaded_live_stream_has_an_event_per_frame_and_flat_memory(
    repository: Path, face: str
):
    (row,) = rows("live.py", repository, "--seconds", "4", "--face", face)
    assert row["events"] == row["frames"]
    assert row["results"] > 0
    assert row["errors"] == 0
    assert row["rss_growth_mb"] < MAX_MEMORY_MB


@pytest.mark.slow
def test_an_overloaded_service_answers_or_refuses_with_429(repository: Path):
    (row,) = rows("overload.py", repository, "--seconds", "3")
    assert row["other_errors"] == 0, row["outcomes"]
    assert "'200'" in row["outcomes"]
    assert row["refused_p50_ms"] <= row["served_p95_ms"]  # in ms only where cores are free
    assert row["recovery_s"] < 30


@pytest.mark.slow
def test_the_stages_account_for_the_time(repository: Path):
    for row in rows("stages.py", repository, "--seconds", "2", "--people", "1", "8"):
        assert row["unaccounted_p95"] <= 0.05


@pytest.mark.slow
def test_crops_of_concurrent_callers_share_batches(repository: Path):
    alone, *_, most = rows("batching.py", repository, "--seconds", "4")
    assert alone["crops_per_batch"] == 1
    assert 1 < most["crops_per_batch"] <= most["max_batch"]


@pytest.mark.slow
def test_faces_are_measured_beside_the_pipeline(repository: Path):
    measured = rows("faces.py", repository, "--seconds", "2")
    assert {row["face"] for row in measured} == {"process", "grpc", "http"}
    assert all(row["images_per_s"] > 0 for row in measured)


@pytest.mark.slow
def test_memory_after_the_start_is_bounded(repository: Path):
    (row,) = rows("startup.py", repository, "--starts", "1", "--requests", "200")
    assert row["ready_s"] > 0
    assert row["rss_after_mb"] < 500
    assert row["rss_growth_mb"] < MAX_MEMORY_MB
