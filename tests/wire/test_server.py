"""Start, refusal to start and graceful stop of the process."""

import json
import re
import shutil
import socket
import time
from pathlib import Path

import pytest

from fakes import DETECTOR_NAME, POSE_NAME, make_repository
from posegate import server
from posegate.settings import Settings
from wire.running import Service, launch, running_service, wait_until
from wire.test_limits import HEAD


def refuses_connections(service: Service) -> bool:
    try:
        service.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_the_request_in_flight_finish(repository: Path, tmp_path: Path, photo: bytes):
    with running_service(repository, tmp_path / "log") as service:
        with service.connect() as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(photo))
            connection.sendall(photo[:100])
            service.wait_for_in_flight(1)
            service.process.terminate()
            wait_until(lambda: refuses_connections(service))
            connection.sendall(photo[100:])
            assert b"HTTP/1.1 200 " in connection.recv(65536)
        assert service.process.wait(60) == 0
        assert "Traceback" not in service.log.read_text()


def test_idle_service_stops_at_once(repository: Path, tmp_path: Path):
    with running_service(repository, tmp_path / "log") as service, service.client() as client:
        client.get("/livez")  # an idle kept-alive connection must not hold it up
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 10  # request_timeout_s is 30


@pytest.mark.parametrize(("workers", "runs"), [(1, "_run"), (2, "supervise")])
def test_ctrl_c_before_the_loop_runs_is_a_stop_like_any_other(
    workers: int, runs: str, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, runs, interrupted)
    assert server.serve(Settings(workers=workers)) == 0


def test_card_that_does_not_match_its_file_stops_the_start(tmp_path: Path):
    repository = make_repository(tmp_path, pose_changes={"sha256": "0" * 64})
    process = launch(repository, tmp_path / "log")
    assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "sha256" in log
    assert "Traceback" not in log


def test_a_repository_without_a_pose_network_stops_the_start(tmp_path: Path):
    repository = make_repository(tmp_path)
    shutil.rmtree(repository / POSE_NAME)
    process = launch(repository, tmp_path / "log")
    assert process.wait(60) == 1
    told = (tmp_path / "log").read_text()
    assert "cannot start: the model repository has no pose network" in told


def test_without_a_detector_requests_give_their_boxes(tmp_path: Path, photo: bytes):
    repository = make_repository(tmp_path)
    shutil.rmtree(repository / DETECTOR_NAME)
    with running_service(repository, tmp_path / "log") as service, service.client() as client:
        given = client.post("/v1/poses?boxes=[[10,10,20,20]]", content=photo)
        assert (given.status_code, len(given.json()["people"])) == (200, 1)
        refused = client.post("/v1/poses", content=photo)
        assert refused.status_code == 404
        assert "no network for task 'detect'" in refused.json()["detail"]
        assert "no person detector: only requests that give" in service.log.read_text()


def test_card_of_another_shape_stops_the_start(tmp_path: Path):
    repository = make_repository(tmp_path)
    path = repository / POSE_NAME / "posegate.json"
    card = json.loads(path.read_text())
    card["input"]["width"] += 4
    path.write_text(json.dumps(card))
    process = launch(repository, tmp_path / "log")
    assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert re.search("error posegate.server cannot start: .*shape", log), log


@pytest.mark.parametrize("name", ["http_port", "grpc_port"])
def test_port_in_use_stops_the_start_with_a_clear_word(repository: Path, tmp_path: Path, name: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = launch(repository, tmp_path / "log", **{name: port})
        assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in log
    assert "Traceback" not in log
