"""Makes the networks that posegate serves: defines, trains, evaluates and exports them."""

import posegate as posegate  # first of all: it keeps ONNX Runtime from sending telemetry
