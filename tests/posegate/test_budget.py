"""What there is only so much of, and the memory of decoded pictures: posegate.budget."""

import asyncio
import threading
import weakref
from pathlib import Path

import pytest

from fakes import POSE_NAME, add_copy, encode, make_photo, make_repository, until
from posegate import pipeline as pipeline_module
from posegate.backends import onnx
from posegate.backends.onnx import OnnxBackend
from posegate.budget import Budget
from posegate.build import running_pipeline
from posegate.errors import BackendDown, BadImage, DeadlineExceeded
from posegate.options import EstimateOptions
from posegate.settings import Settings
from posegate.types import Image, Poses

WIDTH, HEIGHT = 160, 120
PHOTO = encode(make_photo(width=WIDTH, height=HEIGHT))


async def taken_at_once(budget: Budget, units: int) -> bool:
    """Take so many units; whether they need not be waited for."""
    taking = asyncio.create_task(budget.take(units))
    await asyncio.sleep(0)
    return taking.done()


async def test_pixels_are_handed_out_first_come_first_served() -> None:
    budget = Budget(100)
    assert await taken_at_once(budget, 60)
    large = asyncio.create_task(budget.take(50))
    small = asyncio.create_task(budget.take(10))  # it would fit, but came later
    await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()
    budget.give_back(60)
    await asyncio.gather(large, small)
    assert await taken_at_once(budget, 40)


async def test_a_picture_larger_than_the_budget_takes_it_whole() -> None:
    budget = Budget(100)
    assert await taken_at_once(budget, 1000)
    waits = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    assert not waits.done()
    budget.give_back(1000)
    await waits
    budget.give_back(1)
    assert await taken_at_once(budget, 100)


@pytest.mark.parametrize("come", [False, True])
async def test_who_is_cancelled_holds_nobody_up(come: bool) -> None:
    """Cancelled while waiting, or just as the turn has come."""
    budget = Budget(100)
    await budget.take(100)
    leaves = asyncio.create_task(budget.take(100))
    stays = asyncio.create_task(budget.take(30))
    await asyncio.sleep(0)
    assert not stays.done()
    if come:
        budget.give_back(100)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    assert leaves.cancelled()
    if not come:
        budget.give_back(100)
    await stays
    assert await taken_at_once(budget, 70)


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


async def test_who_gives_up_holds_the_pixels_while_a_thread_decodes(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, gate = pipeline_module.decode_image, threading.Event()
    begun: list[bytes] = []

    def held(data, limits):
        begun.append(data)
        gate.wait(10)
        return decode(data, limits)

    monkeypatch.setattr(pipeline_module, "decode_image", held)
    limits = {"max_decoded_pixels": WIDTH * HEIGHT}
    settings = Settings(model_repository=repository, threads=4, **limits)
    async with running_pipeline(settings) as pipeline:
        for _ in range(3):
            late = asyncio.get_running_loop().time() + 0.02
            with pytest.raises(DeadlineExceeded):
                await pipeline.estimate(PHOTO, EstimateOptions(), deadline=late)
        assert len(begun) == 1
        gate.set()
        assert len((await pipeline.estimate(PHOTO, EstimateOptions())).poses) == 2
        assert len(begun) == 2


async def test_a_picture_holds_its_pixels_until_it_is_drawn(
    repository: Path, decoded: list[int]
) -> None:
    gate, drawing = threading.Event(), threading.Event()

    def draw(image: Image, poses: Poses) -> bytes:
        drawing.set()
        gate.wait(10)
        return b"drawn"

    Held.gate = asyncio.Event()
    Held.gate.set()
    limits = {"max_decoded_pixels": WIDTH * HEIGHT}
    async with running_pipeline(Settings(model_repository=repository, **limits)) as pipeline:
        drawn = asyncio.create_task(pipeline.estimate(PHOTO, EstimateOptions(), draw=draw))
        await until(drawing.is_set)
        other = asyncio.create_task(pipeline.estimate(PHOTO, EstimateOptions()))
        await asyncio.sleep(0.05)
        held = len(decoded)
        gate.set()
        await asyncio.gather(drawn, other)
    assert (held, len(decoded)) == (1, 2)


async def test_pictures_that_wait_to_be_drawn_leave_pixels_to_the_others(repository: Path) -> None:
    gate = threading.Event()

    def draw(image: Image, poses: Poses) -> bytes:
        gate.wait(10)
        return b"drawn"

    limits = {"max_decoded_pixels": 4 * WIDTH * HEIGHT, "threads": 2}
    async with running_pipeline(Settings(model_repository=repository, **limits)) as pipeline:
        asked = [
            asyncio.create_task(pipeline.estimate(PHOTO, EstimateOptions(), draw=draw))
            for _ in range(10)
        ]
        try:
            async with asyncio.timeout(8):
                await pipeline.estimate(PHOTO, EstimateOptions())
            await asyncio.sleep(0.05)  # all others wait by now, as they came before
        finally:
            gate.set()
        answers = await asyncio.gather(*asked)
    assert answers[-1].clock.stages_ms["queue"] > 40


async def test_neither_an_answer_nor_an_error_keeps_the_picture(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = pipeline_module.decode_image
    pictures: list[weakref.ref[object]] = []

    def seen(data, limits):
        image = decode(data, limits)
        pictures.append(weakref.ref(image.pixels_bgr))
        return image

    class Failing(OnnxBackend):
        async def infer(self, tensor):
            if len(pictures) == 2:
                raise BackendDown("it fails once")
            return await super().infer(tensor)

    monkeypatch.setattr(pipeline_module, "decode_image", seen)
    monkeypatch.setattr("posegate.build.OnnxBackend", Failing)
    async with running_pipeline(Settings(model_repository=repository)) as pipeline:
        estimate = await pipeline.estimate(PHOTO, EstimateOptions(), draw=lambda *_: b"drawn")
        with pytest.raises(BackendDown) as failed:
            await pipeline.estimate(PHOTO, EstimateOptions())
        await until(lambda: all(picture() is None for picture in pictures), limit_s=5)
    assert len(pictures) == 2
    assert (estimate.drawn, failed.value.detail) == (b"drawn", "it fails once")


async def test_callers_of_a_network_that_is_being_loaded_hold_no_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, gate = make_repository(tmp_path), threading.Event()
    add_copy(repository, "other-pose")
    limits = {"max_decoded_pixels": WIDTH * HEIGHT}
    settings = Settings(model_repository=repository, model=POSE_NAME, **limits)
    async with running_pipeline(settings) as pipeline:
        opens = onnx._open_checked
        monkeypatch.setattr(onnx, "_open_checked", lambda m: (gate.wait(10), opens(m))[1])
        other = EstimateOptions(model="other-pose")
        waits = [asyncio.create_task(pipeline.estimate(PHOTO, other)) for _ in range(2)]
        try:
            async with asyncio.timeout(8):
                await pipeline.estimate(PHOTO, EstimateOptions())
            await asyncio.sleep(0.05)  # all others wait by now, as they came before
        finally:
            gate.set()
        answers = await asyncio.gather(*waits)
    assert all(answer.clock.stages_ms["queue"] > 40 for answer in answers)
