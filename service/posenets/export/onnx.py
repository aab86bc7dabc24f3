"""A trained network -> an ONNX file with a dynamic batch, proven equal to the network."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

OPSET = 17
INPUT_NAME = "input"
_CHECK_BATCHES = (1, 3)


class ExportDiffers(ValueError):
    """The ONNX file does not compute what the network computes."""


def export_onnx(
    network: nn.Module, path: Path, *, size_wh: tuple[int, int], output_names: tuple[str, ...]
) -> float:
    """Write `network` (evaluation mode, folded) as ONNX and compare the two.

    Returns the largest absolute difference as a fraction of the outputs' range, over random
    pictures at batches 1 and 3. Raises ExportDiffers above 1e-4.
    """
    network = network.eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    sample = torch.randn(2, 3, size_wh[1], size_wh[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (sample,),
            str(path),
            input_names=[INPUT_NAME],
            output_names=list(output_names),
            opset_version=OPSET,
            dynamic_axes={name: {0: "n"} for name in (INPUT_NAME, *output_names)},
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path), full_check=True)
    difference = largest_difference(network, path, size_wh=size_wh)
    if difference > 1e-4:
        raise ExportDiffers(f"{path}: differs from the network by {difference:.2e} of the range")
    return difference


def _made_pictures(count: int, size_wh: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) of smooth patches with some noise. On noise alone a detector is sure of nothing,
    and the range of its scores is next to none."""
    width, height = size_wh
    coarse = torch.randn(count, 3, max(2, height // 16), max(2, width // 16), generator=generator)
    patches = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return patches * 1.5 + 0.2 * torch.randn(count, 3, height, width, generator=generator)


@torch.no_grad()
def largest_difference(network: nn.Module, path: Path, *, size_wh: tuple[int, int]) -> float:
    """Largest absolute difference between network and file, as a fraction of the output's range."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in _CHECK_BATCHES:
        sample = _made_pictures(batch, size_wh, generator)
        expected = network(sample)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        for ours, theirs in zip(
            expected, session.run(None, {INPUT_NAME: sample.numpy()}), strict=True
        ):
            span = float(ours.max() - ours.min()) or 1.0
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()) / span)
    return worst
