"""A few seconds of fuzzing; `make fuzz` runs five minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TARGET = Path(__file__).parents[2] / "fuzz" / "target.py"
SECONDS = 12


@pytest.mark.slow
def test_no_made_up_bytes_raise_an_unforeseen_error(tmp_path: Path):
    pytest.importorskip("atheris", reason="atheris is not installed")
    corpus = tmp_path / "corpus"
    command = [
        sys.executable, str(TARGET), str(corpus),
        f"-max_total_time={SECONDS}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048",
        f"-artifact_prefix={tmp_path}/",
    ]  # fmt: skip
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done " in done.stderr
