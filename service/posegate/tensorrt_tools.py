"""ONNX file -> TensorRT plan, and plan -> outputs, with the TensorRT that the machine has.

A plan is built on the machine that will run it, as it is tied to the GPU's compute capability (SM)
and to the version of TensorRT.
"""

import ctypes
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from posegate.types import F32

TRTEXEC_PLACES = ("/usr/src/tensorrt/bin", "/usr/local/tensorrt/bin", "/opt/tensorrt/bin")
PRECISION_FLAGS = {"fp32": ("--noTF32",), "tf32": (), "fp16": ("--fp16",)}
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
NOT_FINITE = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""What C++ writes, and so trtexec, and what `json` reads."""


class PlanFailed(Exception):
    """TensorRT could not build or run a plan; the text says what it said."""


@dataclass(frozen=True, slots=True)
class BuildJob:
    """What to build: `shape` (3, H, W) of one crop, `profile` the least, best and most crops."""

    onnx: Path
    input_name: str
    shape: tuple[int, int, int]
    precision: str
    profile: tuple[int, int, int]
    workspace_mib: int
    timeout_s: float


class TensorRT(Protocol):
    """Builds plans and runs them."""

    @property
    def version(self) -> str:
        """TensorRT's version, as far as a plan is tied to it."""
        ...

    def build(self, job: BuildJob, plan: Path) -> None:
        """Write the plan, or raise PlanFailed."""
        ...

    def run(self, plan: Path, input_name: str, crops: F32) -> dict[str, F32]:
        """Outputs by name for crops (n, 3, H, W), or PlanFailed."""
        ...


def find_trtexec() -> str | None:
    """Path of `trtexec`, None where it is not installed."""
    places = ":".join(TRTEXEC_PLACES)
    return shutil.which("trtexec") or shutil.which("trtexec", path=places)


def tensorrt_release(version: str) -> str:
    """TensorRT's version as 10.13.0, from what trtexec (101300, formerly 8601) or Python says."""
    if not version.isdigit():
        return ".".join(version.split(".")[:3])
    major, rest = divmod(int(version), 10_000 if len(version) > 5 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def gpu_sm() -> str | None:
    """Compute capability of the first GPU, such as 8.7; None without a GPU."""
    lines = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader").split()
    if lines and re.fullmatch(r"\d+\.\d+", lines[0]):
        return lines[0]
    driver = cuda_driver()
    if driver is None:
        return None
    numbers = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0) != 0:
            return None
        numbers.append(value.value)
    return "{}.{}".format(*numbers)


def cuda_driver() -> ctypes.CDLL | None:
    """The GPU driver's own library, initialised; a Jetson's `nvidia-smi` does not tell enough."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


class Trtexec:
    """TensorRT's own command line program."""

    def __init__(self, program: str) -> None:
        self._program = program
        found = re.search(r"TensorRT[ .]v?(\d+)", output_of(program, "--help"))
        self.version = found[1] if found else "unknown"

    def build(self, job: BuildJob, plan: Path) -> None:
        shape = "x".join(map(str, job.shape))
        batches = zip(("min", "opt", "max"), job.profile, strict=True)
        self._call(
            f"--onnx={job.onnx}",
            f"--saveEngine={plan}",
            "--skipInference",
            *(f"--{kind}Shapes={job.input_name}:{size}x{shape}" for kind, size in batches),
            f"--memPoolSize=workspace:{job.workspace_mib}",
            *PRECISION_FLAGS[job.precision],
            timeout_s=job.timeout_s,
        )
        if not plan.is_file():
            raise PlanFailed("trtexec wrote no plan")

    def run(self, plan: Path, input_name: str, crops: F32) -> dict[str, F32]:
        with tempfile.TemporaryDirectory() as scratch:
            inputs, outputs = Path(scratch) / "input", Path(scratch) / "outputs.json"
            np.ascontiguousarray(crops, np.float32).tofile(inputs)
            self._call(
                f"--loadEngine={plan}",
                f"--shapes={input_name}:{'x'.join(map(str, crops.shape))}",
                f"--loadInputs={input_name}:{inputs}",
                f"--exportOutput={outputs}",
                "--iterations=1",
                "--duration=0",
                "--warmUp=0",
                timeout_s=300,
            )
            try:
                rows = _read_json(outputs)
                return {row["name"]: _array(row) for row in rows}
            except (OSError, ValueError, KeyError) as error:
                raise PlanFailed(f"trtexec's outputs cannot be read: {error}") from error

    def _call(self, *arguments: str, timeout_s: float) -> None:
        try:
            done = subprocess.run(  # noqa: S603
                [self._program, *arguments],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PlanFailed(f"trtexec: {error}") from error
        if done.returncode != 0:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            errors = [line for line in said if "[E]" in line] or said
            raise PlanFailed(f"trtexec ended with {done.returncode}: {' '.join(errors[-2:])}")


def output_of(program: str, *arguments: str) -> str:
    """Standard output of a program; empty where it is missing or fails."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603
            [path, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _read_json(path: Path) -> list[dict[str, Any]]:
    """trtexec's JSON; the pattern matches strings too, so that names stay as they are."""
    words = re.compile(r'"[^"]*"|-?(?:nan|inf)\b')
    text = words.sub(lambda found: NOT_FINITE.get(found[0], found[0]), path.read_text("utf-8"))
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


def _array(row: dict[str, object]) -> F32:
    shape = [int(size) for size in str(row["dimensions"]).split("x")]
    return np.array(row["values"], np.float32).reshape(shape)
