"""A video streamed over gRPC gives the keypoints that `posegate predict` gives for its frames."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from fakes import make_photo, make_repository
from posegate.cli import app
from posegate.settings import find_model_repository
from posegate.video import VideoSource
from wire.running import running_service

FRAMES = 6
SIZE_WH = (320, 240)
POSE = "posefpn-small-256x192"


def shipped_pose_behind_made_detector(folder: Path) -> Path:
    """The pictures show nobody; the made detector sees two people in each all the same."""
    repository = make_repository(folder)
    for shipped in find_model_repository().glob(f"{POSE}*"):  # with its decoded form
        (repository / shipped.name).symlink_to(shipped, target_is_directory=True)
    return repository


def walk(path: Path) -> None:
    """A window that moves over a colourful picture, as MJPEG."""
    picture = make_photo(width=480, height=240, seed=3)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE_WH)
    for number in range(FRAMES):
        writer.write(np.ascontiguousarray(picture[:, 25 * number :][:, : SIZE_WH[0]]))
    writer.release()


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def keypoints(document: dict) -> np.ndarray:
    """(P, J, 3): x, y, score of everybody, in the order given."""
    rows = [list(person["keypoints"].values()) for person in document["people"]]
    return np.array(rows, np.float64).reshape(-1, 17, 3)


def test_a_streamed_video_gives_what_predict_gives_for_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repository = shipped_pose_behind_made_detector(tmp_path)
    monkeypatch.setenv("POSEGATE_MODEL_REPOSITORY", str(repository))
    video, frames = tmp_path / "walk.avi", tmp_path / "frames"
    walk(video)
    frames.mkdir()
    source = VideoSource(str(video))
    for number, data in enumerate(source.frames()):
        (frames / f"{number}.jpg").write_bytes(data)
    source.close()
    asked = ("--model", POSE, "--min-score", 0)  # nobody is in the picture: all are unsure
    with running_service(repository, tmp_path / "log") as service:
        url = service.urls["grpc"]
        lines = run("stream", video, "--url", url, *asked).splitlines()
    *events, summary = map(json.loads, lines)
    assert (summary["frames"], summary["results"]) == (FRAMES, FRAMES)
    predicted = map(json.loads, run("predict", frames, *asked).splitlines())
    for event, document in zip(events, predicted, strict=True):
        streamed, expected = keypoints(event), keypoints(document)
        assert len(streamed) == len(expected) == 2
        np.testing.assert_allclose(streamed[..., :2], expected[..., :2], atol=0.01)
        np.testing.assert_allclose(streamed[..., 2], expected[..., 2], atol=1e-3)
    first, last = keypoints(events[0]), keypoints(events[-1])
    assert np.abs(first - last).max() > 1  # the frames do differ
