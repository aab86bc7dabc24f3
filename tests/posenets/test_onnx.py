"""The proof that an exported file is its network: what differs on any kind of picture is seen."""

from pathlib import Path

import pytest
from torch import Tensor, nn

from posenets.export.onnx import ExportDiffers, export_onnx, largest_difference

SIZE_WH = (64, 96)


class _Detail(nn.Module):
    """`extra` of what only noise is full of: neighbouring pixels far apart."""

    def __init__(self, extra: float) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return x + self.extra * nn.functional.relu((x[..., 1:] - x[..., :-1]).abs().mean() - 0.7)


class _Patches(_Detail):
    """`extra` of what only smooth pictures have: large parts that are bright."""

    def forward(self, x: Tensor) -> Tensor:
        bright = nn.functional.avg_pool2d(x, 16).amax((1, 2, 3), keepdim=True)
        return x + self.extra * nn.functional.relu(bright - 0.7)


class _Unsteady(nn.Module):
    """Another answer each time it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 0.01 * self.calls


class _Scores(nn.Module):
    """As a detector's that has hardly learned: near one value at every point."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x: Tensor) -> Tensor:
        return (1e-4 * x + self.logit).sigmoid()


class _Overflowing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1e30 * 1e30


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the tracing exporter is the old one
@pytest.mark.parametrize("kind", [_Detail, _Patches])
def test_difference_on_noise_or_on_smooth_pictures_is_seen(
    kind: type[_Detail], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    assert export_onnx(kind(0.0), path, size_wh=SIZE_WH, output_names=("maps",)) < 1e-6
    assert largest_difference(kind(0.1), path, size_wh=SIZE_WH) > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_file_that_differs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportDiffers, match=r"model\.onnx: differs from the network by"):
        export_onnx(_Unsteady(), path, size_wh=SIZE_WH, output_names=("maps",))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("logit", [-4.6, -12.0])
def test_scores_that_lie_close_together_differ_only_by_more_than_float32_does(
    logit: float, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    assert export_onnx(_Scores(logit), path, size_wh=SIZE_WH, output_names=("scores",)) < 2e-5
    assert largest_difference(_Scores(logit + 2.0), path, size_wh=SIZE_WH) > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_small_difference_of_scores_that_lie_close_together_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(_Scores(-4.6), path, size_wh=SIZE_WH, output_names=("scores",))
    assert largest_difference(_Scores(-4.599), path, size_wh=SIZE_WH) > 5e-4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_network_whose_numbers_overflow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(
        ExportDiffers, match=r"model\.onnx: it or the network gives NaN or infinity"
    ):
        export_onnx(_Overflowing(), path, size_wh=SIZE_WH, output_names=("maps",))
