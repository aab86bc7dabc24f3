"""What may be asked for, on every face alike: people, names of networks, boxes, enum values."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc
import httpx
import pytest
from websockets.sync.client import connect

from fakes import DETECTOR_NAME, POSE_NAME
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.client import Client
from posegate.errors import BadOption
from wire.running import Service, problem_of, running_service

LONG = "x" * 100_000
LONGEST = "\U0001f9d8" * 128
"""1.5 kB where it is percent-encoded."""


@pytest.fixture(scope="module")
def one_person(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that allows one person per picture."""
    log = tmp_path_factory.mktemp("one") / "log"
    with running_service(repository, log, max_people=1) as running:
        yield running


def refusal(service: Service, **options: object) -> grpc.RpcError:
    request = pb.EstimateRequest(image=b"no picture", options=pb.EstimateOptions(**options))
    with (
        grpc.insecure_channel(service.grpc_address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        services.PoseServiceStub(channel).Estimate(request)
    return caught.value


def first_event(service: Service, **options: object) -> str:
    """What the WebSocket answers to such options in the first message."""
    with connect(service.url.replace("http", "ws") + "/v1/stream") as socket:
        socket.send(json.dumps(options))
        return str(socket.recv(timeout=60))


def test_more_people_than_the_server_allows_are_refused_on_every_face(
    service: Service, client: httpx.Client, photo: bytes
):
    words = "max_people is 101; this server allows 1 to 100"
    for route in ("/v1/poses", "/v1/poses:batch"):
        refused = client.post(f"{route}?max_people=101", content=b"no picture")
        assert problem_of(refused, 422, "bad-option")["detail"] == words
    assert client.post("/v1/poses?max_people=100", content=photo).status_code == 200
    error = refusal(service, max_people=101)
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, words)
    assert words in first_event(service, max_people=101)


def test_nobody_is_refused_for_what_was_not_asked(one_person: Service, photo: bytes):
    with one_person.client() as client:
        assert len(client.post("/v1/poses", content=photo).json()["people"]) == 1
        refused = client.post("/v1/poses?max_people=2", content=photo)
        assert "allows 1 to 1" in problem_of(refused, 422, "bad-option")["detail"]
    for url in one_person.urls.values():
        with Client(url) as client:
            assert len(client.estimate(photo)["people"]) == 1
            events = list(client.stream([photo], mode="every"))
            assert len(events[0]["people"]) == 1
            with pytest.raises(BadOption, match="allows 1 to 1"):
                client.estimate(photo, max_people=2)


@pytest.mark.parametrize("option", ["model", "detector"])
def test_a_name_too_long_for_any_network_is_a_bad_option_on_every_face(
    service: Service, client: httpx.Client, option: str
):
    before = service.log.stat().st_size
    error = refusal(service, **{option: LONG})
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 128" in error.details()
    refused = client.post(f"/v1/poses?{option}={LONG[:1000]}", content=b"no picture")
    assert "at most 128" in problem_of(refused, 422, "bad-option")["detail"]
    assert "at most 128" in first_event(service, **{option: LONG[:1000]})
    assert "at most 65536 characters" in first_event(service, **{option: LONG})
    assert service.log.stat().st_size - before < 5_000


def test_the_longest_name_of_all_is_only_unknown(service: Service, client: httpx.Client):
    error = refusal(service, model=LONGEST)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert POSE_NAME in error.details()
    unknown = client.post(f"/v1/poses?model={quote(LONGEST)}", content=b"no picture")
    problem_of(unknown, 404, "unknown-model")


def test_a_detector_is_looked_up_whenever_it_is_named(
    service: Service, client: httpx.Client, photo: bytes
):
    unknown = client.post("/v1/poses?boxes=[[1,2,30,40]]&detector=nope", content=photo)
    assert DETECTOR_NAME in problem_of(unknown, 404, "unknown-model")["detail"]
    boxes = pb.Boxes(boxes=[pb.Box(x=1, y=2, width=30, height=40)])
    assert refusal(service, boxes=boxes, detector="nope").code() is grpc.StatusCode.NOT_FOUND
    known = client.post(f"/v1/poses?boxes=[[1,2,30,40]]&detector={DETECTOR_NAME}", content=photo)
    assert known.json()["detector"] is None


def test_an_unknown_enum_value_is_answered_with_the_names_of_the_proto(service: Service):
    names = "DECODE_UNSPECIFIED, DECODE_DARK, DECODE_QUARTER, DECODE_ARGMAX"
    assert refusal(service, decode=9).details() == f"decode is 9; it must be one of {names}"
    options = pb.StreamRequest(options=pb.StreamOptions(mode=9))
    with (
        grpc.insecure_channel(service.grpc_address) as channel,
        pytest.raises(grpc.RpcError, match="STREAM_MODE_LIVE, STREAM_MODE_EVERY"),
    ):
        list(services.PoseServiceStub(channel).Stream(iter([options])))


def test_reasons_can_be_rated_from_the_start(one_person: Service):
    text = one_person.metrics()
    for reason in ("overloaded", "unavailable", "internal"):
        assert f'posegate_rejected_total{{reason="{reason}"}} 0.0' in text
    assert 'posegate_frames_dropped_total{reason="rate"} 0.0' in text
