"""Peaks found in the graph, and half precision on the wire, over a real Triton."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fakes import POSE_NAME, make_repository
from posegate.build import running_pipeline
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posenets.export.in_graph import export_decoded
from triton_server.asking import PHOTO, over, people, seconds_until
from triton_server.serving import TritonProcess, figure, make_triton_repository

DECODED = f"{POSE_NAME}-decoded"


@pytest.fixture(scope="module")
def with_variant(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made networks, the pose network with its decoded form beside it."""
    copy = tmp_path_factory.mktemp("decoded") / "model_repository"
    shutil.copytree(repository, copy)
    export_decoded(copy)
    return copy


@pytest.fixture(scope="module")
def serving(
    with_variant: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("triton")
    with TritonProcess(
        make_triton_repository(with_variant, folder), backends, folder / "log"
    ) as server:
        yield server


async def same_keypoints(
    repository: Path, pipeline: Pipeline, options: EstimateOptions, *, within_px: float = 0.01
) -> None:
    async with running_pipeline(Settings(model_repository=repository, threads=2)) as embedded:
        expected = (await embedded.estimate(PHOTO, options)).poses.keypoints
    answer = (await pipeline.estimate(PHOTO, options)).poses.keypoints
    assert len(np.unique(expected.xy)) > 17
    np.testing.assert_allclose(answer.xy, expected.xy, rtol=0, atol=within_px)
    np.testing.assert_allclose(answer.scores, expected.scores, rtol=0, atol=1e-3)


async def until_decoded(pipeline: Pipeline) -> None:
    """Wait until the decoded form is warm, from when on it is asked."""
    network, _ = pipeline._estimators[POSE_NAME]._decoded
    await seconds_until(lambda: network.ready() is None)


@pytest.mark.parametrize("decode", ["dark", "quarter", "argmax"])
async def test_keypoints_from_peaks_are_those_of_whole_maps(with_variant, serving, decode):
    async with over(with_variant, serving) as pipeline:
        await until_decoded(pipeline)
        whole = figure(serving.metrics(), "nv_inference_count", POSE_NAME)
        boxes = people(7).boxes_xywh
        await same_keypoints(
            with_variant, pipeline, EstimateOptions(boxes_xywh=boxes, decode=decode)
        )
        assert figure(serving.metrics(), "nv_inference_count", POSE_NAME) == whole


async def test_the_flip_test_takes_whole_maps(with_variant, serving):
    async with over(with_variant, serving) as pipeline:
        await until_decoded(pipeline)
        peaks = figure(serving.metrics(), "nv_inference_count", DECODED)
        boxes = people(3).boxes_xywh
        await same_keypoints(
            with_variant, pipeline, EstimateOptions(boxes_xywh=boxes, flip_test=True)
        )
        assert figure(serving.metrics(), "nv_inference_count", DECODED) == peaks


async def test_a_triton_without_the_variant_serves_all_the_same(with_variant, triton):
    """The shared server knows the made networks only."""
    async with over(with_variant, triton) as pipeline:
        assert pipeline.ready() is None
        await same_keypoints(with_variant, pipeline, people(2))


async def test_half_precision_heatmaps_are_taken(backends, tmp_path):
    """With Gaussian maps: a random map has peaks that differ by less than 11 bits can tell."""

    def halved(config: str) -> str:
        return config.replace(
            'name: "heatmaps" data_type: TYPE_FP32', 'name: "heatmaps" data_type: TYPE_FP16'
        )

    gaussians = make_repository(tmp_path)
    folder = make_triton_repository(gaussians, tmp_path, change=halved)
    assert "TYPE_FP16" in (folder / POSE_NAME / "config.pbtxt").read_text()
    with TritonProcess(folder, backends, tmp_path / "log") as server:
        async with over(gaussians, server) as pipeline:
            await same_keypoints(gaussians, pipeline, people(5), within_px=0.1)
