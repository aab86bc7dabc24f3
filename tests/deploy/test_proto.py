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


@needs_buf
@pytest.mark.parametrize(
    "arguments",
    [
        ("lint",),
        ("format", "--diff", "--exit-code"),
        # baseline.binpb is the contract as it was last released (buf build -o baseline.binpb)
        ("breaking", "--against", "baseline.binpb"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_contract_is_clean_and_breaks_no_client(arguments: tuple[str, ...]):
    done = subprocess.run([BUF, *arguments], cwd=PROTO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_buf
def test_a_broken_contract_would_be_noticed(tmp_path: Path):
    changed = tmp_path / "proto"
    shutil.copytree(PROTO, changed)
    file = changed / "posegate" / "v1" / "pose.proto"
    file.write_text(file.read_text().replace("bytes image = 1", "string image = 1"))
    arguments = ["breaking", "--against", "baseline.binpb"]
    done = subprocess.run([BUF, *arguments], cwd=changed, capture_output=True, text=True)
    assert done.returncode != 0
    assert "image" in done.stdout


def test_generated_code_is_what_the_contract_gives(tmp_path: Path):
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    mapped = f"-I{PACKAGE}={PROTO / 'posegate' / 'v1'}"
    assert protoc.main(["protoc", mapped, *outputs, str(PACKAGE / "pose.proto")]) == 0
    for file in sorted((tmp_path / PACKAGE).iterdir()):
        assert file.read_text() == (ROOT / "service" / PACKAGE / file.name).read_text(), file.name
