"""What clients of the gateway hear when Triton is gone, over gRPC, and when its queue is full."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from fakes import POSE_NAME
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from triton_server.asking import PHOTO
from triton_server.serving import TritonProcess, make_triton_repository
from wire.running import running_service, wait_until

CALLERS = 8
ON_A_PERSON = {"boxes": "[[40, 40, 100, 120]]"}


def test_grpc_says_unavailable_within_a_second_of_tritons_death(
    repository: Path, second_triton: TritonProcess, tmp_path: Path
):
    settings = {"backend": "triton", "triton_urls": second_triton.url}
    with (
        running_service(repository, tmp_path / "log", **settings) as service,
        grpc.insecure_channel(service.grpc_address) as channel,
    ):
        stub = services.PoseServiceStub(channel)
        asked = pb.EstimateRequest(image=PHOTO, options=pb.EstimateOptions(min_score=0.0))
        assert len(stub.Estimate(asked, timeout=30).poses.people) == 2
        second_triton.kill()
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Estimate(asked, timeout=30)
        assert time.monotonic() - started < 1.0
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        second_triton.start()
        with service.client() as client:
            wait_until(lambda: client.get("/readyz").status_code == 200)
        assert len(stub.Estimate(asked, timeout=30).poses.people) == 2


def test_a_full_queue_in_triton_is_429(repository: Path, backends: Path, tmp_path: Path):
    """One request runs for a second, one waits, Triton refuses the others at once."""
    served = make_triton_repository(
        repository,
        tmp_path,
        change=lambda config: config.replace("max_queue_size: 512", "max_queue_size: 1"),
    )
    trigger = tmp_path / "slow"
    model = served / POSE_NAME / "1" / "model.py"
    wait = f"__import__('time').sleep(Path({str(trigger)!r}).exists())\n        crops = "
    model.write_text(model.read_text().replace("crops = ", wait, 1))
    with TritonProcess(served, backends, tmp_path / "triton") as server:
        settings = {"backend": "triton", "triton_urls": server.url}
        with running_service(repository, tmp_path / "log", **settings) as service:
            trigger.touch()

            def ask(_: int) -> httpx.Response:
                kind = {"content-type": "image/png"}
                with service.client() as client:
                    return client.post("/v1/poses", params=ON_A_PERSON, content=PHOTO, headers=kind)

            with ThreadPoolExecutor(CALLERS) as pool:
                answers = list(pool.map(ask, range(CALLERS)))
    counts = Counter(answer.status_code for answer in answers)
    assert counts.keys() == {200, 429}, counts
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["type"].endswith("overloaded")
            assert "Triton's queue" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) >= 1
