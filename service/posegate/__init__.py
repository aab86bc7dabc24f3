"""Serves human pose estimation: photos in, every person's keypoints out."""

import os

# Unless told before its import, ONNX Runtime from 1.29 on sends its makers what it runs, and on what.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
