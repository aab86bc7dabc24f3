"""Crops and heatmaps through memory that the gateway and a real Triton share."""

import asyncio
import errno
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_client
from typer.testing import CliRunner

from fakes import POSE_NAME
from posegate.backends import triton_memory
from posegate.backends.triton_memory import SHM
from posegate.build import running_pipeline
from posegate.cli import app
from posegate.errors import BadOption, DeadlineExceeded
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from triton_server.asking import PHOTO, assert_deadlines_hold, people, seconds_until
from triton_server.cuda_stand_in import put_stand_in
from triton_server.serving import TritonProcess, make_triton_repository
from wire.running import running_service


def over(repository: Path, *servers: TritonProcess, memory: str = "system", **more: object):
    """A pipeline to start, whose networks run in these servers."""
    return running_pipeline(
        Settings(
            model_repository=repository,
            threads=2,
            backend="triton",
            triton_urls=tuple(server.url for server in servers),
            triton_shared_memory=memory,
            **more,
        )
    )


def ours() -> set[str]:
    """Names of this process's regions in /dev/shm."""
    return {path.name for path in SHM.glob(f"posegate-{os.getpid()}-*")}


async def registered(server: TritonProcess) -> set[str]:
    """Names of the regions that Triton has open."""
    async with triton_client.InferenceServerClient(server.url) as client:
        status = await client.get_system_shared_memory_status()
    return set(status.regions)


async def same_as_embedded(repository: Path, pipeline: Pipeline, options: EstimateOptions) -> None:
    async with running_pipeline(Settings(model_repository=repository, threads=2)) as embedded:
        expected = (await embedded.estimate(PHOTO, options)).poses.keypoints
    answer = (await pipeline.estimate(PHOTO, options)).poses.keypoints
    assert len(np.unique(expected.xy)) > 17
    np.testing.assert_allclose(answer.xy, expected.xy, rtol=0, atol=0.01)
    np.testing.assert_allclose(answer.scores, expected.scores, rtol=0, atol=1e-4)


# one crop; several in one request; more than Triton takes in one request
@pytest.mark.parametrize("count", [1, 7, 40])
async def test_keypoints_equal_those_of_the_embedded_backend(repository, triton, count):
    before = await registered(triton)
    async with over(repository, triton) as pipeline:
        await same_as_embedded(repository, pipeline, people(count))
        assert await registered(triton) - before, "nothing went through shared memory"
        assert not ours(), "names in /dev/shm last only until Triton has opened them"
    assert await registered(triton) == before
    assert not ours()


async def test_callers_at_a_time_do_not_meet_in_memory(repository, triton):
    """Every caller has boxes of its own and must get its own keypoints, whatever else runs."""
    counts = [1, 2, 3, 5, 8] * 4
    async with running_pipeline(Settings(model_repository=repository, threads=2)) as embedded:
        expected = {n: await embedded.estimate(PHOTO, people(n)) for n in set(counts)}
    async with over(repository, triton, triton_in_flight=6) as pipeline:
        answers = await asyncio.gather(*(pipeline.estimate(PHOTO, people(n)) for n in counts))
    for count, answer in zip(counts, answers, strict=True):
        np.testing.assert_allclose(
            answer.poses.keypoints.xy, expected[count].poses.keypoints.xy, rtol=0, atol=0.01
        )


async def test_a_restarted_triton_gets_new_regions(repository, second_triton):
    async with over(repository, second_triton) as pipeline:
        await pipeline.estimate(PHOTO, people(2))
        second_triton.kill()
        await seconds_until(lambda: pipeline.ready() is not None)
        await asyncio.to_thread(second_triton.start)
        await seconds_until(lambda: second_triton.answers("v2/health/ready"))
        assert await seconds_until(lambda: pipeline.ready() is None) < 3.0
        await same_as_embedded(repository, pipeline, people(3))
        assert await registered(second_triton)
    assert not await registered(second_triton)


async def test_a_triton_that_forgot_its_regions_is_given_new_ones_at_once(
    repository, second_triton
):
    """As after a restart between two looks; no request fails."""
    async with over(repository, second_triton) as pipeline:
        await pipeline.estimate(PHOTO, people(2))
        async with triton_client.InferenceServerClient(second_triton.url) as client:
            await client.unregister_system_shared_memory()
        assert not await registered(second_triton)
        await same_as_embedded(repository, pipeline, people(2))
        assert await registered(second_triton)


async def test_two_tritons_have_regions_of_their_own(repository, triton, second_triton):
    before = await registered(triton)
    async with over(repository, triton, second_triton) as pipeline:
        for _ in range(4):
            await same_as_embedded(repository, pipeline, people(2))
        first, second = await registered(triton) - before, await registered(second_triton)
        assert first
        assert second
        assert not first & second
        second_triton.kill()
        for _ in range(4):
            await pipeline.estimate(PHOTO, people(2))
    assert await registered(triton) == before


async def test_memory_of_a_request_given_up_is_never_used_again(repository, backends, tmp_path):
    """Triton still writes into it, and holds it until then."""
    slow = make_triton_repository(repository, tmp_path)
    trigger = tmp_path / "slow"
    model = slow / POSE_NAME / "1" / "model.py"
    wait = f"__import__('time').sleep(Path({str(trigger)!r}).exists())\n        crops = "
    model.write_text(model.read_text().replace("crops = ", wait, 1))
    with TritonProcess(slow, backends, tmp_path / "log") as server:
        async with over(repository, server) as pipeline:
            slots = pipeline.networks[POSE_NAME]._servers._servers[server.url]._transfer
            trigger.touch()
            with pytest.raises(DeadlineExceeded):
                await pipeline.estimate(PHOTO, people(1), deadline=time.monotonic() + 0.4)
            trigger.unlink()
            await seconds_until(lambda: slots._retired)  # the caller is let go before
            (given_up,) = [one for one in slots._retired if one.model == POSE_NAME]
            names = {region.name for region in given_up.regions}
            assert names <= await registered(server)
            await same_as_embedded(repository, pipeline, people(1))
            await seconds_until(lambda: given_up not in slots._retired)
            assert not names & await registered(server)


async def test_a_hung_triton_gets_its_memory_back_when_it_wakes(repository, second_triton):
    async with over(repository, second_triton, triton_in_flight=4) as pipeline:
        slots = pipeline.networks[POSE_NAME]._servers._servers[second_triton.url]._transfer
        second_triton.hang()
        await assert_deadlines_hold(pipeline)
        await seconds_until(lambda: pipeline.ready() is not None)
        assert slots._count[POSE_NAME] <= 4
        second_triton.wake()
        assert await seconds_until(lambda: pipeline.ready() is None) < 3.0
        await seconds_until(lambda: not slots._retired)
        await same_as_embedded(repository, pipeline, people(2))
    assert not await registered(second_triton)


async def test_a_triton_that_sees_another_dev_shm_is_refused_at_start(
    repository, triton, tmp_path, monkeypatch
):
    """As in a container of its own: it does not find what the gateway made."""
    monkeypatch.setattr(triton_memory, "SHM", tmp_path)
    with pytest.raises(BadOption, match=f"{triton.url} refuses system shared memory .*Unable to"):
        async with asyncio.timeout(60), over(repository, triton):
            pass
    assert not list(tmp_path.iterdir())


# does it find the memory?; doctor's exit status, what it says
@pytest.mark.parametrize(("found", "status", "says"), [(True, 0, "taken"), (False, 1, "refuses")])
def test_doctor_offers_memory_to_triton(
    repository, triton, tmp_path, monkeypatch, found, status, says
):
    monkeypatch.setenv("POSEGATE_TRITON_SHARED_MEMORY", "system")
    if not found:
        monkeypatch.setattr(triton_memory, "SHM", tmp_path)
    settings = ["--model-repository", str(repository), "--backend", "triton"]
    result = CliRunner().invoke(app, ["doctor", *settings, "--triton-urls", triton.url, "--json"])
    assert result.exit_code == status, result.output
    rows = {row["what"]: row["found"] for row in json.loads(result.stdout)}
    assert says in rows[f"system shared memory at {triton.url}"]


async def test_crops_go_in_messages_where_memory_is_full(repository, triton, monkeypatch):
    def full(handle: int, start: int, byte_size: int) -> None:
        if byte_size > triton_memory.PROBE_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(handle, start, byte_size)

    allocate = os.posix_fallocate
    before = await registered(triton)
    monkeypatch.setattr(os, "posix_fallocate", full)
    async with over(repository, triton) as pipeline:
        await same_as_embedded(repository, pipeline, people(2))
        assert await registered(triton) == before
    assert not ours()


def test_a_killed_gateway_leaves_nothing_in_dev_shm(repository, triton, tmp_path):
    shared = {"backend": "triton", "triton_urls": triton.url, "triton_shared_memory": "system"}
    photo = {"content": PHOTO, "headers": {"content-type": "image/png"}}
    with running_service(repository, tmp_path / "log", **shared) as service:
        with service.client() as client:
            assert client.post("/v1/poses", **photo).status_code == 200
        held = asyncio.run(registered(triton))
        assert any(name.startswith(f"posegate-{service.process.pid}-") for name in held)
        service.process.kill()
        service.process.wait(30)
    assert not list(SHM.glob(f"posegate-{service.process.pid}-*"))


async def test_the_cuda_way_with_a_stand_in_for_cuda(repository, triton, monkeypatch):
    """Everything but CUDA itself: there is no GPU here."""
    put_stand_in(monkeypatch)
    before = await registered(triton)
    async with over(repository, triton, memory="cuda") as pipeline:
        await same_as_embedded(repository, pipeline, people(7))
        assert await registered(triton) - before
    assert await registered(triton) == before
    assert not ours()
