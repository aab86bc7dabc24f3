"""The gRPC contract: clean, backward compatible, and the generated code is made from it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
PACKAGE = Path("posegate") / "api" / "pb"
BESIDE_PYTHON = Path(sys.executable).parent / "buf"
BUF = str(BESIDE_PYTHON) if BESIDE_PYTHON.exists() else shutil.which("buf")
needs_buf = pytest.mark.skipif(BUF is None, reason="buf is not installed (pip install buf-bin)")


CHECKS = {
    "lint": ("lint",),
    "format": ("format", "--diff", "--exit-code"),
    # baseline.binpb is the contract as it was last released (buf build -o baseline.binpb)
    "breaking": ("breaking", "--against", "baseline.binpb"),
}


@needs_buf
@pytest.mark.parametrize("check", CHECKS)
def test_contract_is_clean_and_breaks_no_client(check: str):
    done = subprocess.run([BUF, *CHECKS[check]], cwd=PROTO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_buf
@pytest.mark.parametrize(
    ("check", "before", "after", "words"),
    [
        ("breaking", "bytes image = 1", "string image = 1", "image"),  # another type
        ("breaking", "bytes image = 1", "bytes picture = 1", "image"),  # another name
        ("breaking", "bytes image = 1", "bytes image = 9", "image"),  # another number
        ("breaking", "  DECODE_ARGMAX = 3;\n", "", "Decode"),  # a value less
        ("breaking", "returns (stream StreamResponse)", "returns (StreamResponse)", "Stream"),
        ("lint", "DECODE_DARK", "DARK", "DARK"),
        ("format", "bytes image = 1", "bytes  image = 1", "image"),
    ],
)
def test_a_broken_contract_would_be_noticed(
    tmp_path: Path, check: str, before: str, after: str, words: str
):
    changed = tmp_path / "proto"
    shutil.copytree(PROTO, changed)
    file = changed / "posegate" / "v1" / "pose.proto"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    done = subprocess.run([BUF, *CHECKS[check]], cwd=changed, capture_output=True, text=True)
    assert done.returncode != 0
    assert words in done.stdout


def test_generated_code_is_what_the_contract_gives(tmp_path: Path):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    mapped = f"-I{PACKAGE}={PROTO / 'posegate' / 'v1'}"
    assert protoc.main(["protoc", mapped, *outputs, str(PACKAGE / "pose.proto")]) == 0
    for file in sorted((tmp_path / PACKAGE).iterdir()):
        assert file.read_text() == (ROOT / "service" / PACKAGE / file.name).read_text(), file.name
