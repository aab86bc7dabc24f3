"""A short soak, and the number of metric series under fuzzed paths, ids and options."""

import os
import random
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest

from fakes import encode, make_photo
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from wire.running import Service

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "soak.py"
MINUTES = 0.5
SMALL = encode(make_photo(width=64, height=48), ".jpg")
ROUNDS = 60


@pytest.mark.slow
def test_a_short_soak_leaks_no_thread_and_no_handle(repository: Path):
    """Half a minute says little of memory; `benchmarks/soak.py --minutes 30` does."""
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(PROGRAM), "--repository", str(repository), "--json"]
    done = subprocess.run(
        [*command, "--minutes", str(MINUTES), "--max-mb-per-min", "150"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


def fuzz_service(service: Service, seed: int) -> None:
    """Paths, methods, ids, options, models and message types that nobody has ever used."""
    made = random.Random(seed)
    stub = services.PoseServiceStub(grpc.insecure_channel(service.grpc_address))
    with service.client() as client:
        for _ in range(ROUNDS):
            word = "".join(made.choice("abcXYZ019/._-~%") for _ in range(made.randint(1, 30)))
            headers = {"x-request-id": word, "user-agent": word, "x-forwarded-for": word}
            client.request(made.choice(["GET", "PUT", "BREW"]), f"/{quote(word)}", headers=headers)
            client.get(f"/v1/models/{quote(word, safe='')}", headers=headers)
            query = {made.choice(["model", "decode", "format", word]): word}
            client.post("/v1/poses", params=query, content=SMALL, headers=headers)
            options = pb.EstimateOptions(model=word, decode=made.randint(0, 9))
            asked = pb.EstimateRequest(image=SMALL, options=options)
            with pytest.raises(grpc.RpcError):
                stub.Estimate(asked, metadata=(("x-request-id", "fuzz"), ("x-word", "y")))


def series(service: Service) -> set[str]:
    """Name and labels of every sample."""
    lines = service.metrics().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def test_metric_series_are_a_closed_set(service: Service):
    fuzz_service(service, seed=1)
    series(service)  # counts the route /metrics from its second time on
    known = series(service)
    for seed in range(2, 4):
        fuzz_service(service, seed)
    assert series(service) == known
