"""posegate predict --url and posegate stream against a real service."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from fakes import encode, make_photo
from posegate import cli_predict
from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.cli import app
from posegate.errors import BackendDown
from posegate.predict import Prediction, predict
from wire.running import Service, answering, running_service

SIZE_WH = (160, 120)
FRAMES = 6


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def command(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "posegate", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, SIZE_WH)
    for seed in range(FRAMES):
        writer.write(make_photo(width=SIZE_WH[0], height=SIZE_WH[1], seed=seed))
    writer.release()
    return path


def test_predict_over_the_wire_gives_what_predict_here_gives(
    url: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POSEGATE_MODEL_REPOSITORY", str(repository))
    photo, bad = tmp_path / "photo.png", tmp_path / "bad.jpg"
    photo.write_bytes(encode(make_photo()))
    bad.write_bytes(b"words")
    for form in ("coco", "poses"):
        here = run("predict", photo, bad, "--format", form)
        there = run("predict", photo, bad, "--format", form, "--url", url)
        assert (here.exit_code, there.exit_code) == (1, 1)
        assert "bad.jpg: The bytes are not a JPEG" in there.stderr.replace("\n", " ")
        if form == "coco":
            assert json.loads(there.stdout) == json.loads(here.stdout)
        else:
            documents = json.loads(there.stdout), json.loads(here.stdout)
            assert documents[0]["people"] == documents[1]["people"]
            assert min(documents[0]["stages_ms"].values()) >= 0
            spent_ms = sum(documents[0]["stages_ms"].values())
            assert documents[0]["total_ms"] == pytest.approx(spent_ms, abs=0.01)
    drawn = run("predict", photo, "--url", url, "--out", tmp_path / "out", "--draw")
    assert drawn.exit_code == 0
    assert (tmp_path / "out" / "photo.drawn.jpg").stat().st_size > 0


def test_predict_says_when_nobody_is_there(tmp_path: Path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(make_photo()))
    result = run("predict", photo, "--url", "ftp://x")
    assert result.exit_code == 2
    assert "it must look like" in result.stderr


def test_a_video_is_streamed_and_drawn(url: str, video: Path, tmp_path: Path):
    drawn = tmp_path / "drawn.mp4"
    result = run("stream", video, "--url", url, "--track", "--draw", drawn)
    assert result.exit_code == 0, result.output
    *events, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["frame"] for event in events] == list(range(FRAMES))
    assert [person["id"] for person in events[-1]["people"]] == [0, 1]
    assert summary["results"] == FRAMES
    before, after = cv2.VideoCapture(str(video)), cv2.VideoCapture(str(drawn))
    count = 0
    while (frames := (before.read(), after.read()))[1][0]:
        (_, plain), (_, marked) = frames
        assert np.abs(plain.astype(int) - marked).max() > 100  # skeletons stand out
        count += 1
    assert count == FRAMES


def test_a_stream_takes_the_options_of_the_contract(url: str, video: Path):
    asked = ("--max-people", 1, "--flip-test", "--min-keypoint-score", 2)
    result = run("stream", video, "--url", url, *asked)
    assert result.exit_code == 2
    assert "min_keypoint_score" in result.stderr
    result = run("stream", video, "--url", url, *asked[:3])
    *events, _ = [json.loads(line) for line in result.stdout.splitlines()]
    assert {len(event["people"]) for event in events} == {1}


class Silent(services.PoseServiceServicer):
    """Takes frames and says nothing."""

    def __init__(self) -> None:
        self.took = threading.Event()

    def Stream(  # noqa: N802
        self, request_iterator: Iterator[pb.StreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamResponse]:
        over = threading.Event()
        context.add_callback(over.set)
        context.send_initial_metadata(())
        for request in request_iterator:
            if request.HasField("frame"):
                self.took.set()
        over.wait(60)
        yield from ()


class Short(services.PoseServiceServicer):
    """Takes frames and ends the stream without a word."""

    def Stream(  # noqa: N802
        self, request_iterator: Iterator[pb.StreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamResponse]:
        context.send_initial_metadata(())
        for _ in request_iterator:
            pass
        yield from ()


@pytest.mark.parametrize("drawn", [[], ["--draw", "drawn.mp4"]])
def test_an_interrupt_ends_a_stream_that_waits(video: Path, tmp_path: Path, drawn: list[str]):
    silent = Silent()
    with answering(silent) as url:
        process = command("stream", video, "--url", url, *drawn, cwd=tmp_path)
        assert silent.took.wait(60)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told.strip()) == (130, "")


def unheard() -> None:
    """What a shell does for what its script starts with an &."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_sigterm_ends_a_stream_in_the_background_of_a_script(video: Path):
    silent = Silent()
    with answering(silent) as url:
        process = command("stream", video, "--url", url, preexec_fn=unheard)
        assert silent.took.wait(60)
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told.strip()) == (130, "")


def test_a_drawn_video_that_is_ended_can_be_read(url: str, tmp_path: Path):
    long, drawn = tmp_path / "long.avi", tmp_path / "drawn.mp4"
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE_WH)
    for seed in range(300):
        writer.write(make_photo(width=SIZE_WH[0], height=SIZE_WH[1], seed=seed))
    writer.release()
    process = command("stream", long, "--url", url, "--draw", drawn, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert cv2.VideoCapture(str(drawn)).read()[0]


def test_a_benchmark_that_is_ended_takes_its_service_along(repository: Path):
    asked = ("--people", 1, "--concurrency", 1, "--seconds", 60)
    process = command("bench", "--model-repository", repository, *asked)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + 60
    while not (service := children.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert service
    assert not Path("/proc", service).exists()


def test_a_stream_without_a_summary_was_cut_off(video: Path):
    with answering(Short()) as url:
        result = run("stream", video, "--url", url)
    assert result.exit_code == 2
    assert "before its summary" in result.stderr


def test_a_video_that_is_none_is_named(tmp_path: Path):
    result = run("stream", tmp_path / "none.mp4")
    assert result.exit_code == 2
    assert "cannot be opened" in result.stderr


def test_a_video_without_a_frame_is_named(url: str, video: Path, tmp_path: Path):
    """A picture's name, which OpenCV takes for the first of a row of them."""
    (tmp_path / "1.jpg").write_text("no picture")
    result = run("stream", tmp_path / "1.jpg", "--url", url)
    assert result.exit_code == 2
    assert "1.jpg has no frame that can be read" in result.stderr


def test_a_video_that_is_cut_off_is_told_behind_its_events(url: str, tmp_path: Path):
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE_WH)
    for seed in range(4 * FRAMES):
        writer.write(make_photo(width=SIZE_WH[0], height=SIZE_WH[1], seed=seed))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run("stream", path, "--url", url)
    *events, summary = map(json.loads, result.stdout.splitlines())
    assert 0 < len(events) == summary["frames"] < 4 * FRAMES
    assert result.exit_code == 2
    assert f"cut.avi ended after {len(events)} of {4 * FRAMES} frames" in result.stderr


@pytest.mark.parametrize("background", [None, unheard])
def test_what_is_done_is_told_when_the_run_is_ended(
    service: Service, tmp_path: Path, background: Callable[[], None] | None
):
    for number in range(400):
        (tmp_path / f"{number}.png").write_bytes(encode(make_photo(seed=number)))
    process = command(
        *("predict", tmp_path, "--url", service.url), stdout=subprocess.PIPE, preexec_fn=background
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.terminate()
    rest, told = process.communicate(timeout=60)
    assert (process.returncode, told.strip()) == (130, "")
    assert len([json.loads(line) for line in (first, *rest.splitlines())]) < 400


@pytest.mark.parametrize("arguments", [("predict", "photo.png"), ("models", "list", "--json")])
def test_an_output_that_takes_no_more_is_told(
    repository: Path, tmp_path: Path, arguments: tuple[str, ...]
):
    (tmp_path / "photo.png").write_bytes(encode(make_photo()))
    with Path("/dev/full").open("w") as full:
        told = ("--model-repository", repository)
        process = command(*arguments, *told, stdout=full, cwd=tmp_path)
        said = process.communicate(timeout=120)[1]
    assert said.strip() == "error: cannot write the output: No space left on device"
    assert process.returncode == 2


def test_a_stream_that_is_refused_says_why(url: str, video: Path):
    result = run("stream", video, "--track", "--detect-every", -1, "--url", url)
    assert result.exit_code == 2
    assert "detect_every" in result.stderr


def test_an_option_that_the_wire_cannot_carry_is_named(url: str, tmp_path: Path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(make_photo()))
    result = run("predict", *[photo] * 9, "--url", url, "--max-people", 99999999999)
    assert result.exit_code == 2
    assert result.stderr.count("max_people is 99999999999") == 1


def test_what_is_done_is_told_when_the_service_goes_away(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(make_photo()))

    async def predict_one(*arguments: Any, **options: Any) -> AsyncIterator[Prediction]:
        async for prediction in predict(*arguments, **options):
            yield prediction
            raise BackendDown("it went away")

    monkeypatch.setattr(cli_predict, "predict", predict_one)
    result = run("predict", photo, "--url", url, "--format", "coco")
    assert result.exit_code == 2
    assert "it went away" in result.stderr
    assert {row["file_name"] for row in json.loads(result.stdout)} == {str(photo)}


def test_bench_sends_the_key_that_a_service_asks_for(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    known = hashlib.sha256(b"secret").hexdigest()
    cell = ("--people", 1, "--concurrency", 1, "--seconds", 0.05, "--json")
    monkeypatch.setenv("POSEGATE_MODEL_REPOSITORY", str(repository))
    with running_service(repository, tmp_path / "log", api_key_sha256=known) as service:
        refused = run("bench", "--url", service.url, *cell)
        assert refused.exit_code == 2
        assert "401" in refused.stderr
        monkeypatch.setenv("POSEGATE_API_KEY", "secret")
        result = run("bench", "--url", service.url, *cell)
    assert result.exit_code == 0, result.stderr
    assert {row["face"] for row in json.loads(result.stdout)} == {"process", "http"}


def test_bench_says_what_it_cannot_measure(
    service: Service, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("POSEGATE_MODEL_REPOSITORY", str(repository))
    photo = tmp_path / "photo.png"
    photo.write_bytes(encode(make_photo()))
    counts = ("--people", 2, "--people", 3, "--concurrency", 1, "--seconds", 0.05)
    result = run("bench", "--images", photo, *counts, "--url", service.url, "--json")
    assert {row["people"] for row in json.loads(result.stdout)} == {2}
    assert "not measured: 3 people; no picture has so many" in result.stderr
    assert "not measured: 2" not in result.stderr
    elsewhere = run("bench", "--url", f"http://{service.grpc_address}")
    assert elsewhere.exit_code == 2
    assert "this is not its HTTP port" in elsewhere.stderr
