"""Shared memory that this machine does not have is refused before anything is served."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("tritonclient")

from posegate.backends import triton_memory
from posegate.backends.triton_memory import SHM, SystemRegion, check_shared_memory, refusal
from posegate.build import build_pipeline
from posegate.cli import app
from posegate.errors import BadOption
from posegate.metrics import Metrics
from posegate.settings import Settings

CUDA = "tritonclient.utils.cuda_shared_memory"


@pytest.fixture
def _no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the library, whatever this one has."""
    monkeypatch.setitem(sys.modules, CUDA, None)
    monkeypatch.delattr("tritonclient.utils.cuda_shared_memory", raising=False)


@pytest.mark.usefixtures("_no_cuda")
def test_cuda_is_refused_without_its_library(repository: Path):
    settings = Settings(
        model_repository=repository, backend="triton", triton_shared_memory="cuda", threads=1
    )
    with pytest.raises(BadOption, match=r"triton_shared_memory: cuda .* needs an NVIDIA GPU"):
        build_pipeline(settings, Metrics())


def test_the_cuda_library_is_not_touched_unless_it_is_set(repository: Path):
    before = sys.modules.pop(CUDA, None)
    build_pipeline(
        Settings(
            model_repository=repository, backend="triton", triton_shared_memory="system", threads=1
        ),
        Metrics(),
    )
    assert CUDA not in sys.modules
    if before is not None:
        sys.modules[CUDA] = before


@pytest.mark.usefixtures("_no_cuda")
def test_serve_does_not_start_and_doctor_says_why(repository: Path, monkeypatch, caplog):
    monkeypatch.setenv("POSEGATE_TRITON_SHARED_MEMORY", "cuda")
    shared = ["--model-repository", str(repository), "--backend", "triton"]
    served = CliRunner().invoke(app, ["serve", *shared, "--port", "0", "--grpc-port", "0"])
    assert served.exit_code == 1
    assert "needs an NVIDIA GPU" in caplog.text + served.output
    told = CliRunner().invoke(app, ["doctor", *shared, "--triton-urls", "127.0.0.1:9", "--json"])
    rows = {row["what"]: row for row in json.loads(told.stdout)}
    assert told.exit_code == 1
    assert rows["shared memory"]["verdict"] == "wrong"
    assert "needs an NVIDIA GPU" in rows["shared memory"]["found"]


def test_a_machine_without_dev_shm_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(triton_memory, "SHM", tmp_path / "absent")
    with pytest.raises(BadOption, match=r"No such file.*it needs a "):
        check_shared_memory("system")


def test_memory_that_does_not_fit_is_an_error_and_not_a_crash():
    """A region's pages are taken when it is made: a write must not end the process."""
    before = {path.name for path in SHM.iterdir()}
    with pytest.raises(OSError, match=r"No space|Invalid|too large|Cannot allocate"):
        SystemRegion(2**50)
    assert not [
        name for name in {path.name for path in SHM.iterdir()} - before if "posegate" in name
    ]


async def test_memory_that_cannot_be_given_back_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    """And no end of the watch that asks."""

    class Region:
        def __init__(self, byte_size: int) -> None: ...

        async def register(self, client: object, *, timeout_s: float) -> None: ...

        unregister = register

        def free(self) -> None:
            raise OSError("CUDA: unknown error")

    monkeypatch.setitem(triton_memory.REGIONS, "cuda", Region)
    told = await refusal(None, "cuda", "made:1")
    assert told == "cuda shared memory cannot be had here (CUDA: unknown error)"
