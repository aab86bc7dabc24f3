"""Serves human pose estimation: photos in, every person's keypoints out."""

import os

# From 1.29 on ONNX Runtime tells its makers what it runs, and on what, unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
