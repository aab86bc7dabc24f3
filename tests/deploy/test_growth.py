"""The page about growth holds what its calculation gives."""

import json
import os
import subprocess
import sys

from deploy.tools import ROOT


def test_the_table_is_what_the_calculation_gives():
    program = [sys.executable, ROOT / "benchmarks" / "growth.py", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "k8s" / "growth.md").read_text()
    rows = json.loads(done.stdout)
    assert f"| {' | '.join(rows[0])} |" in page
    for row in rows:
        assert f"| {' | '.join(f'{number:,}' for number in row.values())} |" in page
