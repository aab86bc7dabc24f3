"""ONNX repository -> Triton repository with TensorRT plans where they can be built.

A plan is tied to the ONNX file, TensorRT, the GPU, the precision and the batch profile, and lies
in the cache under a key of all five. A network whose plan cannot be built keeps its ONNX file.
Standard library only: it runs in NVIDIA's TensorRT image.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PRECISION_FLAGS = {"fp32": ["--noTF32"], "tf32": [], "fp16": ["--fp16"]}


def main(arguments: list[str] | None = None) -> int:
    """Build what is missing; the exit status is 1 when a network had to keep its ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True, help="repository with ONNX files")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps plans")
    parser.add_argument("--models", type=Path, required=True, help="repository to write")
    parser.add_argument("--precision", choices=sorted(PRECISION_FLAGS), default="fp32")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--timeout-s", type=float, default=1800)
    options = parser.parse_args(arguments)
    machine = {"tensorrt": tensorrt_version(), "gpu": gpu_name()}
    failed = [
        folder.name
        for card in sorted(options.onnx.glob("*/posegate.json"))
        if not publish(folder := card.parent, machine, options)
    ]
    if failed:
        print(f"served from ONNX, no plan: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def publish(folder: Path, machine: dict[str, str], options: argparse.Namespace) -> bool:
    """Write one network into the Triton repository; False when it kept its ONNX file."""
    onnx = folder / "1" / "model.onnx"
    profile = f"1-{min(8, options.max_batch)}-{options.max_batch}"
    key = plan_key(onnx, {**machine, "precision": options.precision, "profile": profile})
    plan = options.cache / key / "model.plan"
    built = plan.is_file() or build(folder, plan, options)
    target = options.models / folder.name
    version = target / "1"
    version.mkdir(parents=True, exist_ok=True)
    for name in ("config.pbtxt", "posegate.json"):
        replace(folder / name, target / name)
    source, stale = (plan, "model.onnx") if built else (onnx, "model.plan")
    replace(source, version / source.name)
    (version / stale).unlink(missing_ok=True)
    return built


def build(folder: Path, plan: Path, options: argparse.Namespace) -> bool:
    """Run trtexec; the plan appears in the cache only when it is whole."""
    card = json.loads((folder / "posegate.json").read_text(encoding="utf-8"))
    spec = card["input"]
    shape = f"3x{spec['height']}x{spec['width']}"
    batches = {"min": 1, "opt": min(8, options.max_batch), "max": options.max_batch}
    plan.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=plan.parent) as scratch:
        made = Path(scratch) / "model.plan"
        command = [
            "trtexec",
            f"--onnx={folder / '1' / 'model.onnx'}",
            f"--saveEngine={made}",
            "--skipInference",
            *(f"--{kind}Shapes={spec['name']}:{size}x{shape}" for kind, size in batches.items()),
            *PRECISION_FLAGS[options.precision],
        ]
        try:
            result = subprocess.run(command, timeout=options.timeout_s, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"{folder.name}: {error}", file=sys.stderr)
            return False
        if result.returncode != 0 or not made.is_file():
            print(f"{folder.name}: trtexec ended with {result.returncode}", file=sys.stderr)
            return False
        made.replace(plan)
    return True


def plan_key(onnx: Path, parts: dict[str, str]) -> str:
    """Folder name of a plan: readable head, then a digest of all that it is tied to."""
    digest = hashlib.sha256(onnx.read_bytes())
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return f"{onnx.parents[1].name}-{parts['precision']}-{digest.hexdigest()[:16]}"


def replace(source: Path, target: Path) -> None:
    """Copy beside the target, then rename, so that Triton never reads half a file."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def tensorrt_version() -> str:
    """TensorRT's version as trtexec reports it."""
    text = output_of(["trtexec", "--help"])
    found = re.search(r"TensorRT[ .]v?(\d+)", text)
    return found.group(1) if found else "unknown"


def gpu_name() -> str:
    """Name, compute capability and driver of the first GPU; a Jetson has its device-tree model."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"]
    lines = output_of(query).splitlines()
    tree = Path("/proc/device-tree/model")
    if lines:
        return lines[0].strip()
    return tree.read_text(encoding="utf-8").strip("\0\n") if tree.is_file() else "unknown"


def output_of(command: list[str]) -> str:
    try:
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


if __name__ == "__main__":
    sys.exit(main())
