"""What there is only so much of, and the memory of decoded pictures: posegate.budget."""

import asyncio
from pathlib import Path

import pytest

from fakes import POSE_NAME, encode, make_photo, until
from posegate import pipeline as pipeline_module
from posegate.backends.onnx import OnnxBackend
from posegate.budget import Budget
from posegate.build import running_pipeline
from posegate.errors import BadImage, DeadlineExceeded
from posegate.options import EstimateOptions
from posegate.settings import Settings

WIDTH, HEIGHT = 160, 120
PHOTO = encode(make_photo(width=WIDTH, height=HEIGHT))


async def test_pixels_are_handed_out_first_come_first_served() -> None:
    budget = Budget(100)
    assert await budget.take(60) is False
    large = asyncio.create_task(budget.take(50))
    small = asyncio.create_task(budget.take(10))  # it would fit, but came later
    await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()
    budget.give_back(60)
    assert await large is True
    assert await small is True
    assert await budget.take(40) is False


async def test_a_picture_larger_than_the_budget_takes_it_whole() -> None:
    budget = Budget(100)
    assert await budget.take(1000) is False
    waits = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    assert not waits.done()
    budget.give_back(1000)
    assert await waits is True
    budget.give_back(1)
    assert await budget.take(100) is False


@pytest.mark.parametrize("come", [False, True])
async def test_who_is_cancelled_holds_nobody_up(come: bool) -> None:
    """Cancelled while waiting, or just as the turn has come."""
    budget = Budget(100)
    await budget.take(100)
    leaves = asyncio.create_task(budget.take(100))
    stays = asyncio.create_task(budget.take(30))
    await asyncio.sleep(0)
    if come:
        budget.give_back(100)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    assert leaves.cancelled()
    if not come:
        budget.give_back(100)
    assert await stays is True
    assert await budget.take(70) is False


class Held(OnnxBackend):
    """Holds the pose network's batches while the gate is closed."""

    gate: asyncio.Event

    async def infer(self, tensor):
        if self._model.name == POSE_NAME:
            await self.gate.wait()
        return await super().infer(tensor)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every picture that was decoded."""
    seen: list[int] = []
    decode = pipeline_module.decode_image

    def counted(data, limits):
        seen.append(len(data))
        return decode(data, limits)

    monkeypatch.setattr(pipeline_module, "decode_image", counted)
    monkeypatch.setattr("posegate.build.OnnxBackend", Held)
    return seen


async def test_pictures_over_the_budget_wait_undecoded_and_that_counts_as_queueing(
    repository: Path, decoded: list[int]
) -> None:
    limits = {"max_decoded_pixels": 2 * WIDTH * HEIGHT, "network_idle_s": 0}
    Held.gate = asyncio.Event()
    Held.gate.set()
    async with running_pipeline(Settings(model_repository=repository, **limits)) as pipeline:
        Held.gate.clear()
        asked = [asyncio.create_task(pipeline.estimate(PHOTO, EstimateOptions())) for _ in range(5)]
        await until(lambda: len(decoded) == 2)
        await asyncio.sleep(0.1)
        assert len(decoded) == 2
        with pytest.raises(DeadlineExceeded):
            await pipeline.estimate(
                PHOTO, EstimateOptions(), deadline=asyncio.get_running_loop().time() + 0.05
            )
        Held.gate.set()
        answers = await asyncio.gather(*asked)
    assert len(decoded) == 5
    assert all(len(answer.poses) == 2 for answer in answers)
    assert answers[-1].clock.stages_ms["queue"] > 100
    assert list(answers[-1].clock.stages_ms)[:2] == ["decode", "detect"]


async def test_a_picture_that_fails_gives_its_pixels_back(repository: Path) -> None:
    limits = {"max_decoded_pixels": WIDTH * HEIGHT}
    broken = encode(make_photo(width=WIDTH, height=HEIGHT), ".jpg")[:-200]
    async with running_pipeline(Settings(model_repository=repository, **limits)) as pipeline:
        for _ in range(3):
            with pytest.raises(BadImage):
                await pipeline.estimate(broken, EstimateOptions())
        assert len((await pipeline.estimate(PHOTO, EstimateOptions())).poses) == 2
