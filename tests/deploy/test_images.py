"""The gateway's image builds, is small enough, and runs as nobody special.

Needs buildah and the base image of the Dockerfile in its store; where there is no registry of
images, debian_base.sh beside this file puts a stand-in there. BUILDAH_OPTIONS adds to the options
of the build, such as a file with pip's settings: `--volume /etc/pip.conf:/etc/pip.conf:ro`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from deploy.tools import ROOT
from fakes import encode, make_photo

DOCKERFILE = ROOT / "docker" / "gateway.Dockerfile"
NAME = "localhost/posegate-test:gateway"
MOST_MB = 450

pytestmark = pytest.mark.slow


def buildah(*arguments: str, timeout_s: float = 120) -> str:
    done = subprocess.run(
        ["buildah", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def image():
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed (Debian: buildah)")
    if os.geteuid() != 0:
        pytest.skip("buildah with chroot isolation needs root here")
    base = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.M)[-1]
    names = {name for one in json.loads(buildah("images", "--json")) for name in one["names"] or ()}
    if f"docker.io/library/{base}" not in names:
        pytest.skip(f"{base} is not in buildah's store; tests/deploy/debian_base.sh makes it")
    options = ["--pull-never", "--network=host", "-f", str(DOCKERFILE), "-t", NAME]
    options += shlex.split(os.environ.get("BUILDAH_OPTIONS", ""))
    buildah("bud", *options, str(ROOT), timeout_s=1800)
    yield NAME
    buildah("rmi", NAME)


def test_gateway_is_small_enough(image):
    (found,) = [
        one for one in json.loads(buildah("images", "--json")) if image in (one["names"] or ())
    ]
    number, unit = found["size"].split()
    assert float(number) * {"KB": 1e-3, "MB": 1, "GB": 1e3}[unit] < MOST_MB


def test_gateway_runs_as_nobody_special_and_estimates(image, tmp_path):
    container = buildah("from", "--pull-never", image).strip()
    try:
        said = buildah(
            "run", container, "--", "python", "-m", "posegate", "models", "list", "--json"
        )
        assert "pose" in {row["task"] for row in json.loads(said)}
        assert buildah("run", container, "--", "id", "-u").strip() == "10001"
        (tmp_path / "photo.png").write_bytes(encode(make_photo()))
        tmp_path.chmod(0o777)
        command = ["python", "-m", "posegate", "predict", "/photos", "--out", "/photos/out"]
        buildah("run", "--volume", f"{tmp_path}:/photos", container, "--", *command)
        assert list((tmp_path / "out").iterdir())
        stripped = "import lap, ml_dtypes, uvloop, tritonclient.grpc.aio"
        buildah("run", container, "--", "python", "-c", stripped)
    finally:
        buildah("rm", container)
