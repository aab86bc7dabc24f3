"""What Triton cannot serve is named by the gateway, and what it served before goes on."""

import asyncio
import shutil

import numpy as np
import pytest
import tritonclient.grpc as triton_client
from tritonclient.utils import InferenceServerException

from fakes import POSE_NAME, add_copy, make_repository
from posegate.build import build_pipeline, running_pipeline
from posegate.errors import BackendDown, BadCard, UnknownModel
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.settings import Settings
from triton_server.asking import PHOTO, over, people, seconds_until
from triton_server.serving import TritonProcess, make_triton_repository

ANOTHER_GPU = "The engine plan file is generated on an incompatible device, expecting compute 8.9"


async def test_networks_that_triton_lacks_are_told_of_and_the_others_serve(backends, tmp_path):
    repository = make_repository(tmp_path)
    for name in ("unknown", "corrupt", "foreign"):
        add_copy(repository, name)
    served = make_triton_repository(repository, tmp_path)
    shutil.rmtree(served / "unknown")
    (served / "corrupt" / "network.onnx").write_bytes(b"corrupt")
    (served / "foreign" / "refuse.txt").write_text(ANOTHER_GPU)
    server = TritonProcess(served, backends, tmp_path / "log")
    settings = Settings(
        model_repository=repository,
        model=POSE_NAME,
        threads=1,
        backend="triton",
        triton_urls=(server.url,),
    )
    pipeline = build_pipeline(settings, Metrics())
    starting = asyncio.create_task(pipeline.start())
    try:
        await asyncio.to_thread(server.start)
        told = (
            "network unknown ready (it knows corrupt, foreign, made-detector, made-pose)",
            "network.onnx",  # ONNX Runtime's words about the corrupt file
            ANOTHER_GPU,
        )
        await seconds_until(
            lambda: (
                all(words in (pipeline.networks.missing() or "") for words in told)
                and pipeline.ready() is None
            )
        )
        assert f"not have network {POSE_NAME}" not in pipeline.networks.missing()
        default = EstimateOptions()
        pipeline.check(default)
        assert len((await pipeline.estimate(PHOTO, default)).poses) == 2
        with pytest.raises(BackendDown, match=f"the service is not ready: .*{ANOTHER_GPU}"):
            pipeline.check(EstimateOptions(model="foreign"))
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await pipeline.stop()
        server.kill()


async def test_a_config_with_another_batch_size_is_followed(repository, backends, tmp_path):
    """Smaller batches than ours: more requests, the same keypoints."""
    small = make_triton_repository(
        repository,
        tmp_path,
        change=lambda config: (
            config.replace("max_batch_size: 32", "max_batch_size: 4")
            .replace("[ 8, 16, 32 ]", "[ 2, 4 ]")
            .replace("batch_size: 8 ", "batch_size: 4 ")
        ),
    )
    with TritonProcess(small, backends, tmp_path / "log") as server:
        embedded = Settings(model_repository=repository, threads=1)
        async with running_pipeline(embedded) as here, over(repository, server) as there:
            expected = await here.estimate(PHOTO, people(11))
            answer = await there.estimate(PHOTO, people(11))
        np.testing.assert_allclose(
            answer.poses.keypoints.xy, expected.poses.keypoints.xy, rtol=0, atol=0.01
        )


async def test_a_config_without_batches_is_refused_at_start(repository, backends, tmp_path):
    def unbatched(config: str) -> str:
        return config.split("dynamic_batching")[0].replace(
            "max_batch_size: 32", "max_batch_size: 0"
        )

    served = make_triton_repository(repository, tmp_path, change=unbatched)
    with (
        TritonProcess(served, backends, tmp_path / "log") as server,
        pytest.raises(BadCard, match="max_batch_size 0"),
    ):
        async with over(repository, server):
            pass


async def test_a_corrupt_successor_does_not_end_the_former(repository, backends, tmp_path):
    served = make_triton_repository(repository, tmp_path)
    with TritonProcess(
        served, backends, tmp_path / "log", "--model-control-mode=explicit", "--load-model=*"
    ) as server:
        async with over(repository, server) as pipeline:
            before = await pipeline.estimate(PHOTO, people(3))
            (served / POSE_NAME / "network.onnx").write_bytes(b"corrupt")
            with (
                triton_client.InferenceServerClient(server.url) as client,
                pytest.raises(InferenceServerException, match=r"network\.onnx"),
            ):
                await asyncio.to_thread(client.load_model, POSE_NAME)
            await asyncio.sleep(1.0)
            assert pipeline.ready() is None
            after = await pipeline.estimate(PHOTO, people(3))
        np.testing.assert_array_equal(after.poses.keypoints.xy, before.poses.keypoints.xy)


# what is wrong with the gateway's own repository, and the words of the error
@pytest.mark.parametrize(
    ("fault", "words"), [("file", "has no network file"), ("content", "sha256")]
)
def test_a_card_that_does_not_fit_its_file_stops_the_start(tmp_path, fault, words):
    repository = make_repository(tmp_path)
    onnx = repository / POSE_NAME / "1" / "model.onnx"
    if fault == "file":
        onnx.unlink()
    else:
        onnx.write_bytes(b"corrupt")
    settings = Settings(model_repository=repository, backend="triton")
    with pytest.raises(BadCard, match=words):
        build_pipeline(settings, Metrics())


def test_a_default_network_that_is_unknown_stops_the_start(repository):
    with pytest.raises(UnknownModel, match="made-pose"):
        build_pipeline(
            Settings(model_repository=repository, backend="triton", model="nobody"), Metrics()
        )
