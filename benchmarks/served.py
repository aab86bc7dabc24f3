"""What the benchmarks share: a service in a process of its own, pictures to send, a printed table.

The service is started as a user starts it, `python -m posegate serve`, with settings from the
environment. What is known of it comes from outside: /proc, /metrics and its answers.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posegate.bench import Job, found_jobs, made_jobs
from posegate.build import running_pipeline
from posegate.loadclient import Connection, wait_ready
from posegate.settings import load_settings
from posegate.tables import print_table


@dataclass(frozen=True)
class Served:
    """A ready service; `started_s` is the time from its start to ready, in seconds."""

    url: str
    grpc_address: str
    pid: int
    started_s: float

    def rss_mb(self) -> float:
        """Resident memory, MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1024

    def cpu_s(self) -> float:
        """Seconds that its threads have spent on a core, those that ended aside."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def handles(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name and labels as they stand there."""
        connection = Connection(self.url)
        await connection.open()
        _, body = await connection.request("GET", "/metrics")
        await connection.close()
        lines = (line.rpartition(" ") for line in body.decode().splitlines() if line[0] != "#")
        return {name: float(value) for name, _, value in lines}


@asynccontextmanager
async def served(repository: Path | None, **settings: object) -> AsyncIterator[Served]:
    """Start, wait until ready, stop with SIGTERM at the end."""
    http_port, grpc_port = _free_ports(2)
    wanted = {
        "http_port": http_port,
        "grpc_port": grpc_port,
        "log_level": "warning",
        "model_repository": repository,
        "keep_alive_s": 3600,  # connections rest while another face has its turns
        **settings,
    }
    given = {f"POSEGATE_{k.upper()}": str(v) for k, v in wanted.items() if v is not None}
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "posegate", "serve", env={**os.environ, **given}
    )
    url = f"http://127.0.0.1:{http_port}"
    try:
        await wait_ready(url, process)
        started_s = time.perf_counter() - started
        yield Served(url, f"127.0.0.1:{grpc_port}", process.pid, started_s)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def jobs_of(arguments: argparse.Namespace, people: int) -> list[Job]:
    """The photos with at least so many people, asked for that many; a made picture without any."""
    if not arguments.photos:
        return made_jobs(people, model=None)
    settings = load_settings(model_repository=arguments.repository)
    async with running_pipeline(settings) as pipeline:
        jobs = await found_jobs(pipeline, arguments.photos, people, model=None)
    if not jobs:
        raise SystemExit(f"in none of the photos the detector finds {people} people")
    return jobs


def parser(description: str, *, seconds: float) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("photos", nargs="*", help="files, folders or globs; else a made picture")
    made.add_argument("--repository", type=Path, default=None)
    made.add_argument("--seconds", type=float, default=seconds)
    made.add_argument("--json", action="store_true")
    return made


def report(title: str, rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """The table, or the same rows as JSON; numbers to three digits after the point."""
    shown = [
        {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows
    ]
    if as_json:
        print(json.dumps(shown, indent=2))
    else:
        print_table(title, shown)


def percentile(values: Sequence[float], share: float) -> float:
    """`share` in percent; 0 for nothing."""
    return float(np.percentile(values, share)) if len(values) else 0.0


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Growth of the values in a minute, by the straight line that fits best."""
    return float(np.polyfit(times_s, values, 1)[0] * 60) if len(values) > 2 else 0.0


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
