"""Frames of a video file or a camera, and a video file of drawn frames."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from posegate.errors import BadOption
from posegate.types import U8, Image

DEFAULT_FPS = 30.0
JPEG_QUALITY = 92


class VideoSource:
    """A video file, or the camera of that number; frames come as JPEG, as they are sent."""

    def __init__(self, source: str) -> None:
        self.is_camera = source.isdecimal()
        self._capture = cv2.VideoCapture(int(source) if self.is_camera else source)
        if not self._capture.isOpened():
            kind = "camera" if self.is_camera else "video"
            raise BadOption(f"{kind} {source} cannot be opened; give a video file or a number")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS

    def frames(self) -> Iterator[bytes]:
        """Every frame until the end; a camera has none."""
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        while True:
            there, pixels = self._capture.read()
            if not there:
                return
            _, data = cv2.imencode(".jpg", pixels, quality)
            yield data.tobytes()

    def close(self) -> None:
        """Let the file or the camera go."""
        self._capture.release()


class VideoFile:
    """An MP4 file being written; it takes the size of its first frame."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: Image) -> None:
        """Append a frame."""
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            size = (image.width, image.height)
            self._writer = cv2.VideoWriter(str(self._path), code, self._fps, size)
            if not self._writer.isOpened():
                raise BadOption(f"cannot write a video to {self._path}; its name must end in .mp4")
        self._writer.write(image.pixels_bgr)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


def decode_frame(data: bytes) -> Image:
    """A frame that this module made."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    frame: U8 = np.asarray(pixels, np.uint8)
    return Image(frame)
