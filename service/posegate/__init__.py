"""Serves human pose estimation: photos in, every person's keypoints out."""

import os

# From 1.29 on, ONNX Runtime reports what it runs, and on what, to its makers unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
