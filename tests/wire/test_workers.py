"""Several worker processes behind one pair of ports."""

import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fakes import POSE_NAME, make_repository
from posegate.client import Client
from posegate.errors import BackendDown
from posegate.server import serve
from posegate.settings import Settings
from wire.running import Service, launch, running_service, wait_until
from wire.test_limits import HEAD

WORKERS = 2
CALLS = 24
COUNT = 'posegate_request_seconds_count{{code="{code}",face="{face}",route="{route}"}}'

IN_FLIGHT = 'posegate_in_flight{face="http"}'
BACKEND_UP = 'posegate_backend_up{backend="onnxruntime"}'


@pytest.fixture(scope="module")
def crew(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("crew") / "log"
    with running_service(repository, log, workers=WORKERS) as running:
        wait_until_all_ready(running)
        yield running


def wait_until_all_ready(service: Service) -> None:
    def ready() -> bool:
        try:
            told = httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200
            return told and samples(service).get(BACKEND_UP) == 1.0
        except httpx.TransportError:
            return False

    wait_until(ready)


def workers(process: "subprocess.Popen[bytes]") -> list[int]:
    """Process ids of those that serve, oldest first."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [
        int(pid)
        for pid in pids.split()
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def lives(pid: int) -> bool:
    """Whether it runs; a process that nobody has asked about since it ended does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def samples(service: Service) -> dict[str, float]:
    """What one worker, whichever the kernel chooses, says of all of them."""
    text = httpx.get(f"{service.url}/metrics", trust_env=False).text
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def calls(service: Service, face: str, code: str, route: str) -> float:
    name = COUNT.format(code=code, face=face, route=route)
    return samples(service).get(name, 0.0)


def test_requests_to_all_workers_add_up(crew: Service, photo: bytes):
    http = ("http", "200", "/v1/poses")
    rpc = ("grpc", "OK", "/posegate.v1.PoseService/Estimate")
    before = calls(crew, *http), calls(crew, *rpc)
    for _ in range(CALLS):  # a connection each, so that the kernel deals them out
        assert httpx.post(f"{crew.url}/v1/poses", content=photo, trust_env=False).is_success
        with Client(f"grpc://{crew.grpc_address}", timeout_s=60) as client:
            assert client.estimate(photo)["model"] == POSE_NAME
    told = {(calls(crew, *http), calls(crew, *rpc)) for _ in range(12)}
    assert told == {(before[0] + CALLS, before[1] + CALLS)}
    shares = set(re.findall(r"POST /v1/poses 200 .*worker=(\d)", crew.log.read_text()))
    assert len(shares) == WORKERS


def test_no_series_names_a_process(crew: Service, photo: bytes):
    httpx.post(f"{crew.url}/v1/poses", content=photo, trust_env=False)
    wait_until(lambda: samples(crew)[IN_FLIGHT] == 1.0)  # the one that asks
    rows = samples(crew)
    assert not [name for name in rows if "pid" in name]
    values = {value for name in rows for value in re.findall('="([^"]*)"', name)}
    assert not values & {str(pid) for pid in workers(crew.process)}
    backend = [value for name, value in rows.items() if name.startswith("posegate_backend_up")]
    assert backend == [1.0]
    infos = [value for name, value in rows.items() if name.startswith("posegate_model_info")]
    assert infos == [1.0, 1.0]


def test_stage_times_of_all_workers_have_one_histogram(crew: Service, photo: bytes):
    httpx.post(f"{crew.url}/v1/poses", content=photo, trust_env=False)
    rows = samples(crew)
    labels = f'model="{POSE_NAME}",stage="infer"'
    count = rows[f"posegate_stage_seconds_count{{{labels}}}"]
    assert rows[f'posegate_stage_seconds_bucket{{le="+Inf",{labels}}}'] == count
    assert rows["posegate_people_per_image_count"] == count


def test_a_dead_worker_is_replaced_and_its_counts_stay(repository: Path, tmp_path: Path):
    """And nobody meets a cold worker meanwhile, nor a worker when all of them should be gone."""
    with running_service(repository, tmp_path / "log", workers=WORKERS) as service:
        wait_until_all_ready(service)
        for _ in range(8):
            httpx.get(f"{service.url}/v1/models", trust_env=False)
        wait_until(lambda: calls(service, "http", "200", "/v1/models") == 8)
        first = workers(service.process)
        with service.connect() as hanging:
            hanging.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
            wait_until(lambda: samples(service)[IN_FLIGHT] == 2.0)
            os.kill(first[0], signal.SIGKILL)
            wait_until(lambda: "a worker died; another takes" in service.log.read_text())
            while service.log.read_text().count("server ready") < WORKERS + 1:
                assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200
                assert samples(service)[BACKEND_UP] == 1.0
                time.sleep(0.01)
            assert samples(service)[BACKEND_UP] == 1.0
        second = workers(service.process)
        assert len(second) == WORKERS
        assert first[0] not in second
        assert calls(service, "http", "200", "/v1/models") == 8
        wait_until(lambda: samples(service)[IN_FLIGHT] == 1.0)
        wait_until(lambda: samples(service)[BACKEND_UP] == 1.0)
        service.process.kill()
        wait_until(lambda: not any(lives(pid) for pid in second))
        with pytest.raises(ConnectionRefusedError):
            service.connect()


@pytest.mark.parametrize("failing", ["dies at once", "cannot be started"])
def test_a_replacement_that_fails_is_tried_again_while_others_serve(
    repository: Path, tmp_path: Path, failing: str
):
    """As where memory or file handles have run out for a while."""
    with running_service(repository, tmp_path / "log", workers=WORKERS) as service:
        wait_until_all_ready(service)
        first, supervisor = workers(service.process), service.process.pid
        limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        if failing == "cannot be started":
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (service.handles(), limits[1]))
        os.kill(first[0], signal.SIGKILL)
        if failing == "dies at once":
            wait_until(lambda: set(workers(service.process)) - set(first))
            os.kill((set(workers(service.process)) - set(first)).pop(), signal.SIGKILL)
        wait_until(lambda: "place could not be taken; trying again" in service.log.read_text())
        assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: service.log.read_text().count("server ready") == WORKERS + 1)
        assert len(workers(service.process)) == WORKERS
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text()


def test_a_stop_while_a_dead_worker_is_replaced_is_a_stop_like_any_other(
    repository: Path, tmp_path: Path
):
    with running_service(repository, tmp_path / "log", workers=WORKERS) as service:
        wait_until_all_ready(service)
        first = workers(service.process)
        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: set(workers(service.process)) - set(first))
        new = (set(workers(service.process)) - set(first)).pop()
        handles_signals = re.compile(r"SigCgt:.*[4567cdef]...$", re.MULTILINE)  # SIGTERM is bit 14
        wait_until(lambda: handles_signals.search(Path(f"/proc/{new}/status").read_text()))
        service.process.terminate()
        assert service.process.wait(60) == 0
        assert "Traceback" not in service.log.read_text()


def test_workers_without_a_temporary_folder_say_so(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    settings = Settings(model_repository=repository, workers=WORKERS, http_port=0, grpc_port=0)
    assert serve(settings) == 1
    assert "share their metrics in a temporary folder" in caplog.text


def test_a_worker_that_cannot_start_stops_the_service(tmp_path: Path):
    repository = make_repository(tmp_path, pose_changes={"sha256": "0" * 64})
    process = launch(repository, tmp_path / "log", workers=WORKERS)
    assert process.wait(90) == 1
    log = (tmp_path / "log").read_text()
    assert "sha256" in log
    assert "a worker died before it was ready; stopping" in log
    assert "Traceback" not in log


def test_ctrl_c_before_the_workers_are_ready_is_a_stop_like_any_other(
    repository: Path, tmp_path: Path
):
    process = launch(repository, tmp_path / "log", workers=WORKERS)
    wait_until(lambda: len(workers(process)) == WORKERS)
    for pid in [*workers(process), process.pid]:  # a terminal asks all of them
        os.kill(pid, signal.SIGINT)
    assert process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert " error " not in log


@pytest.mark.parametrize(("name", "shared"), [("http_port", True), ("grpc_port", False)])
def test_a_port_in_use_is_named(repository: Path, tmp_path: Path, name: str, shared: bool):
    """Even where its owner would share it, as another service with workers does."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=shared) as taken:
        port = taken.getsockname()[1]
        process = launch(repository, tmp_path / "log", workers=WORKERS, **{name: port})
        assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert f"cannot listen on 127.0.0.1:{port}" in log
    assert "Traceback" not in log


def test_sigterm_under_load_loses_no_accepted_request(
    repository: Path, tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with running_service(repository, tmp_path / "log", workers=WORKERS) as service:
        wait_until_all_ready(service)
        assert list(scratch.glob("posegate-metrics-*/*.db"))
        answers: Counter[object] = Counter()
        stopped = threading.Event()

        def load() -> None:
            while not stopped.is_set():
                try:
                    headers = {"connection": "close"}
                    url = f"{service.url}/v1/poses"
                    answer = httpx.post(
                        url, content=photo, headers=headers, timeout=60, trust_env=False
                    )
                    answers[answer.status_code] += 1
                except httpx.TransportError:  # not accepted any more
                    stopped.set()

        def call() -> None:
            with Client(f"grpc://{service.grpc_address}", timeout_s=60, retries=0) as client:
                while not stopped.is_set():
                    try:
                        client.estimate(photo)
                        answers["OK"] += 1
                    except BackendDown:
                        stopped.set()

        threads = [threading.Thread(target=target) for target in (load, load, call)]
        half = [service.connect() for _ in range(6)]
        for connection in half:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(photo) + photo[:100])
        for thread in threads:
            thread.start()
        wait_until(lambda: answers[200] >= 10 and answers["OK"] >= 5)
        service.process.terminate()
        assert stopped.wait(60)
        for connection in half:
            connection.sendall(photo[100:])
            assert b"HTTP/1.1 200 " in connection.recv(65536)
            connection.close()
        for thread in threads:
            thread.join(60)
        assert service.process.wait(90) == 0
        log = service.log.read_text()
    assert "Traceback" not in log
    done = Counter(re.findall(r" POST /v1/poses (\d+)", log))
    assert done == {"200": answers[200] + len(half)}
    assert set(re.findall(r"PoseService/Estimate (\w+)", log)) == {"OK"}
    assert not list(scratch.glob("posegate-metrics-*"))


def test_health_of_any_worker_is_serving(crew: Service):
    for _ in range(6):
        with grpc.insecure_channel(
            crew.grpc_address, options=(("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
