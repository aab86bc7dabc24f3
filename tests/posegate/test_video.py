"""Where a drawn video cannot be written, that is said before a service hears of a single frame."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from fakes import make_photo
from posegate.cli import app
from posegate.errors import BadOption
from posegate.types import Image
from posegate.video import VideoFile, VideoSource

SIZE_WH = (160, 120)
FPS = 10.0


def picture() -> Image:
    return Image(make_photo(width=SIZE_WH[0], height=SIZE_WH[1]))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "walk.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, SIZE_WH)
    writer.write(picture().pixels_bgr)
    writer.release()
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("out.txt", "must end in .mp4"),
        ("out", "must end in .mp4"),
        ("folder.mp4", "must end in .mp4"),
        ("nowhere/out.mp4", "No such file or directory"),
    ],
)
def test_a_stream_that_cannot_be_drawn_asks_no_service(
    video: Path, tmp_path: Path, name: str, reason: str
):
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    with socket.create_server(("127.0.0.1", 0)) as service:
        url = f"http://127.0.0.1:{service.getsockname()[1]}"
        asked = ["stream", str(video), "--url", url, "--draw", str(tmp_path / name)]
        result = CliRunner().invoke(app, asked)
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.accept()
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())
    assert sorted(tmp_path.iterdir()) == before


def test_a_video_is_never_drawn_over_itself(video: Path, tmp_path: Path):
    source = video.rename(tmp_path / "walk.mp4")
    before = source.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(source)
    for draw in (source, link):
        result = CliRunner().invoke(app, ["stream", str(source), "--draw", str(draw)])
        assert result.exit_code == 2
        assert "is the video itself; give another file" in " ".join(result.stderr.split())
    assert source.read_bytes() == before


def test_a_missing_codec_is_named_before_the_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *_: 0x21212121)
    with pytest.raises(BadOption, match="codec"):
        VideoFile(tmp_path / "out.mp4", FPS)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays_until_the_first_frame(tmp_path: Path):
    path = tmp_path / "out.MP4"
    path.write_bytes(b"a film of old")
    file = VideoFile(path, FPS)
    assert path.read_bytes() == b"a film of old"
    assert list(tmp_path.iterdir()) == [path]
    file.write(picture())
    file.close()
    source = VideoSource(str(path))
    (frame,) = source.frames()
    source.close()
    decoded = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (SIZE_WH[1], SIZE_WH[0], 3)


def test_an_address_is_a_camera(monkeypatch: pytest.MonkeyPatch):
    opened: list[int | str] = []

    class Opened:
        def __init__(self, source: int | str) -> None:
            opened.append(source)

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def get(self, asked: int) -> float:
            has_end = asked == cv2.CAP_PROP_FRAME_COUNT and str(opened[-1]).endswith(".mp4")
            return 20.0 if has_end else 0.0

    monkeypatch.setattr(cv2, "VideoCapture", Opened)
    kinds = {
        "rtsp://host/1": True,
        "0": True,
        "walk.mp4": False,
        "http://host/walk.mp4": False,
        "file:///walk.mp4": False,
        "/dev/null": True,  # a character device, as /dev/video0 is
    }
    assert {source: VideoSource(source).is_camera for source in kinds} == kinds
    assert opened == [0 if source == "0" else source for source in kinds]


CLOSED_WHILE_READ = """
import sys, threading, time
from posegate.video import VideoSource
for wait_s in range(12):
    source = VideoSource(sys.argv[1])
    reader = threading.Thread(target=lambda: all(source.frames()))
    reader.start()
    time.sleep(wait_s / 400)
    source.close()
    reader.join(20)
    assert not reader.is_alive()
"""


def test_a_video_may_be_closed_while_a_thread_reads_it(tmp_path: Path):
    """In a process of its own, which the video library would crash or hang."""
    path = tmp_path / "long.mp4"
    writer = VideoFile(path, FPS)
    for _ in range(300):
        writer.write(picture())
    writer.close()
    run = [sys.executable, "-c", CLOSED_WHILE_READ, str(path)]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def long_video(path: Path) -> bytes:
    """Forty frames of noise; the file's bytes."""
    random = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, SIZE_WH)
    for _ in range(40):
        writer.write(random.integers(0, 255, (SIZE_WH[1], SIZE_WH[0], 3), np.uint8))
    writer.release()
    return path.read_bytes()


def test_a_file_that_is_cut_off_is_told_from_a_whole_one(tmp_path: Path):
    path = tmp_path / "long.avi"
    whole = long_video(path)
    for data, is_whole in ((whole, True), (whole[: len(whole) // 2], False)):
        path.write_bytes(data)
        source = VideoSource(str(path))
        source.check()  # nothing was read yet
        read = sum(1 for _ in source.frames())
        source.close()
        if is_whole:
            assert read == 40
            source.check()
        else:
            assert 10 < read < 30
            with pytest.raises(BadOption, match=rf"ended after {read} of 40 frames; it is damaged"):
                source.check()


def test_a_camera_that_ends_went_away_but_not_one_that_is_closed(video: Path):
    for closed in (False, True):
        source = VideoSource(str(video))
        source.is_camera = True
        frames = source.frames()
        next(frames)
        if closed:
            source.close()
        assert list(frames) == []
        if closed:
            source.check()
        else:
            with pytest.raises(BadOption, match=r"camera .*walk\.avi went away after 1 frames"):
                source.check()


def test_a_drawn_video_that_is_not_whole_is_told(tmp_path: Path):
    path = tmp_path / "drawn.mp4"
    file = VideoFile(path, FPS)
    file.check()  # nothing was drawn
    for _ in range(3):
        file.write(picture())
    file.close()
    file.check()
    path.write_bytes(path.read_bytes()[:-200])  # as a full disk leaves it
    with pytest.raises(
        BadOption, match=r"drawn\.mp4 holds 0 of 3 drawn frames; is the disk full\?"
    ):
        file.check()


def test_a_source_is_not_let_go_while_a_frame_is_made(video: Path, monkeypatch: pytest.MonkeyPatch):
    encode, begun, made = cv2.imencode, Event(), Event()

    def slow(*arguments):
        begun.set()
        time.sleep(0.2)
        made.set()
        return encode(*arguments)

    monkeypatch.setattr(cv2, "imencode", slow)
    source = VideoSource(str(video))
    Thread(target=next, args=(source.frames(),)).start()
    assert begun.wait(10)
    source.close()
    assert made.is_set()
