"""A trained network -> an ONNX file with a dynamic batch, proven equal to the network."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from posenets.export.halves import stored_in_halves
from posenets.onnx_files import open_session

OPSET = 17
INPUT_NAME = "input"
_CHECK_BATCHES = (1, 3)
_LEAST_SPAN = 0.01
"""Scores are computed from numbers about 1, whose float32 steps are 1e-5 of it."""


class ExportDiffers(ValueError):
    """The ONNX file does not compute what the network computes."""


def export_onnx(
    network: nn.Module,
    path: Path,
    *,
    size_wh: tuple[int, int],
    output_names: tuple[str, ...],
    halves: bool = False,
) -> float:
    """Write `network` (evaluation mode, folded) as ONNX and compare the two.

    `halves` stores kernels as float16 (see `with_half_kernels`).

    Returns the largest absolute difference as a fraction of the outputs' range, over noise
    and made pictures at batches 1 and 3. Raises ExportDiffers above 1e-4 or for NaN.
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
    if halves:
        onnx.save(stored_in_halves(onnx.load(path)), path)
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
    return patches * 1.5 + 0.2 * _noise(count, size_wh, generator)


def _noise(count: int, size_wh: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(N, 3, H, W) that excites every filter, fine ones above all."""
    return torch.randn(count, 3, size_wh[1], size_wh[0], generator=generator)


@torch.no_grad()
@np.errstate(invalid="ignore")  # infinities are said in words
def largest_difference(network: nn.Module, path: Path, *, size_wh: tuple[int, int]) -> float:
    """Largest absolute difference between network and file, as a fraction of the output's range.

    The range reaches to zero and is at least 0.01: where values lie close together, as the scores
    of a hardly trained detector, float32's steps would count. Both are taken over noise and made
    pictures together, the worst output counts. Raises ExportDiffers where one of them gives NaN or
    infinity, BadData for a file that does not load.
    """
    session = open_session(path)
    generator = torch.Generator().manual_seed(0)
    facts: list[list[tuple[float, float, float]]] = []  # per run and output: difference, low, high
    for batch in _CHECK_BATCHES:
        for make in (_made_pictures, _noise):
            sample = make(batch, size_wh, generator)
            expected = network(sample)
            expected = (expected,) if isinstance(expected, Tensor) else expected
            answers = session.run(None, {INPUT_NAME: sample.numpy()})
            facts.append(
                [
                    (float(np.abs(a - b).max()), float(a.min()), float(a.max()))
                    for a, b in zip((x.numpy() for x in expected), answers, strict=True)
                ]
            )
    difference, low, high = np.moveaxis(np.array(facts), 2, 0)  # each (runs, outputs)
    span = np.maximum(high.max(0), 0) - np.minimum(low.min(0), 0)
    worst = float((difference.max(0) / np.maximum(span, _LEAST_SPAN)).max())
    if not np.isfinite(worst):
        raise ExportDiffers(f"{path}: it or the network gives NaN or infinity on made pictures")
    return worst
