"""posegate stream: a video or a camera through a service, one JSON line per event."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from posegate.cli_options import (
    ApiKey,
    Ca,
    Certificate,
    Decode,
    Detector,
    FlipTest,
    Key,
    Model,
    ended_by_sigterm,
    progress_bar,
    reported,
    tls_files,
)
from posegate.client import Client
from posegate.client.transport import Document
from posegate.errors import BadOption
from posegate.options import DEFAULT_MAX_PEOPLE
from posegate.remote import poses_of
from posegate.render import draw_poses
from posegate.video import VideoFile, VideoSource, decode_frame


def stream_command(
    source: Annotated[str, typer.Argument(help="Video file; camera's number or rtsp:// address.")],
    url: Annotated[
        str, typer.Option(help="Service: http://host:port or grpc://host:port; https://, grpcs://.")
    ] = "http://127.0.0.1:8080",
    api_key: ApiKey = None,
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    draw: Annotated[Path | None, typer.Option(help="MP4 file for the drawn frames.")] = None,
    mode: Annotated[
        Literal["live", "every"] | None,
        typer.Option(help="Drop late frames or none; else live for cameras, every for files."),
    ] = None,
    track: Annotated[bool, typer.Option("--track", help="Ids and smoothed keypoints.")] = False,
    detect_every: Annotated[
        int, typer.Option(help="With --track: run the detector on one of so many frames.")
    ] = 1,
    model: Model = None,
    detector: Detector = None,
    min_score: Annotated[float, typer.Option(help="Least score of a person.")] = 0.3,
    min_keypoint_score: Annotated[
        float | None, typer.Option(help="Least score of a keypoint.")
    ] = None,
    max_people: Annotated[
        int | None, typer.Option(help=f"Most people per frame; else {DEFAULT_MAX_PEOPLE}.")
    ] = None,
    flip_test: FlipTest = False,
    decode: Decode = "dark",
) -> None:
    """Send frames to a service and print its events, one JSON document per line."""
    options: dict[str, Any] = {
        "model": model,
        "detector": detector,
        "min_score": min_score,
        "min_keypoint_score": min_keypoint_score,
        "max_people": max_people,
        "flip_test": flip_test,
        "decode": decode,
        "track": track,
    }
    if detect_every != 1:
        options["detect_every"] = detect_every
    with reported(), ended_by_sigterm():
        tls = tls_files(ca, certificate, key)
        with ExitStack() as stack:
            video = stack.enter_context(closing(VideoSource(source)))
            options["mode"] = mode or ("live" if video.is_camera else "every")
            frames, drawing = video.frames(), None
            if draw is not None:
                if draw.exists() and Path(source).exists() and draw.samefile(source):
                    raise BadOption(f"--draw {draw} is the video itself; give another file")
                drawing = stack.enter_context(closing(_Drawing(draw, video.fps, smoothed=track)))
                frames = drawing.kept(frames)
            client = stack.enter_context(Client(url, api_key=api_key, tls=tls))
            progress = stack.enter_context(progress_bar())
            task = progress.add_task("frames", total=None)
            event: Document = {}
            for event in client.stream(frames, **options):
                print(json.dumps(event), flush=True)
                progress.advance(task)
                if drawing:
                    drawing.take(event)
        if event.get("frames") == 0:
            raise BadOption(f"{source} has no frame that can be read")
        if drawing:
            drawing.check()
        video.check()


class _Drawing:
    """Keeps the frames that were sent until their event comes, then writes them to the video."""

    def __init__(self, path: Path, fps: float, *, smoothed: bool) -> None:
        self._file = VideoFile(path, fps)
        self._field = "smoothed" if smoothed else "keypoints"
        self._sent: dict[int, bytes] = {}

    def kept(self, frames: Iterator[bytes]) -> Iterator[bytes]:
        for number, frame in enumerate(frames):
            self._sent[number] = frame
            yield frame

    def take(self, event: Document) -> None:
        """Write the event's frame, with its people if there is a result."""
        if event.get("frame") is None:
            return
        image = decode_frame(self._sent.pop(event["frame"]))
        if event["event"] == "result":
            image = draw_poses(image, poses_of(event, keypoints=self._field))
        self._file.write(image)

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        """See VideoFile."""
        self._file.check()
