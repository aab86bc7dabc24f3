"""Who is estimated, who waits, who is dropped: posegate.frames."""

import asyncio
import time
from typing import cast

import pytest

from posegate.errors import BadImage, BadOption, TooLarge
from posegate.frames import BURST_S, Frame, FrameQueue, Outcome, RateCap
from posegate.pipeline import Estimate
from posegate.stages import StageClock

LARGEST = 1000


class Work:
    """Estimates whose end the test decides; the answer is the frame's own bytes."""

    def __init__(self) -> None:
        self.running: dict[bytes, asyncio.Future[Estimate]] = {}

    async def __call__(self, data: bytes, clock: StageClock, arrived: float) -> Estimate:
        self.running[data] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[data]
        finally:
            del self.running[data]

    def finish(self, data: bytes) -> None:
        self.running[data].set_result(cast(Estimate, data))


def queue(work: Work, *, live: bool = True, max_fps: float = 1e6) -> FrameQueue:
    made = FrameQueue(work, max_in_flight=2, max_fps=max_fps, max_bytes=LARGEST)
    made.live = live
    return made


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def outcomes(frames: FrameQueue) -> list[tuple[int | None, Outcome | None]]:
    return [(frame.number, frame.outcome) async for frame in frames.settled()]


async def test_when_full_the_newest_frame_takes_the_place_of_the_waiting_one():
    work = Work()
    frames = queue(work)
    for data in (b"0", b"1", b"2", b"3", b"4"):
        await frames.offer(data)
    await turns()
    assert set(work.running) == {b"0", b"1"}
    work.finish(b"1")  # out of order: its event still comes second
    await turns()
    assert set(work.running) == {b"0", b"4"}
    work.finish(b"4")
    work.finish(b"0")
    frames.end()
    expected = [(0, b"0"), (1, b"1"), (2, "busy"), (3, "busy"), (4, b"4")]
    assert await outcomes(frames) == expected


async def test_every_mode_holds_the_sender_up_and_drops_nothing():
    work = Work()
    frames = queue(work, live=False)
    await frames.offer(b"0")
    await frames.offer(b"1")
    third = asyncio.create_task(frames.offer(b"2"))
    await turns()
    assert not third.done()
    work.finish(b"0")
    await turns()
    assert third.done()
    work.finish(b"1")
    work.finish(b"2")
    frames.end()
    assert await outcomes(frames) == [(0, b"0"), (1, b"1"), (2, b"2")]


async def test_a_sender_cut_off_while_held_up_has_its_frame_answered():
    work = Work()
    frames = queue(work, live=False)
    await frames.offer(b"0")
    await frames.offer(b"1")
    third = asyncio.create_task(frames.offer(b"2"))
    await turns()
    third.cancel()
    frames.end()
    for data in (b"0", b"1", b"2"):
        await turns()
        work.finish(data)
    assert [number for number, _ in await outcomes(frames)] == [0, 1, 2]


async def test_a_frame_over_the_limit_does_not_wait():
    work = Work()
    frames = queue(work, live=False)
    for data in (b"0", b"1"):
        await frames.offer(data)
    await frames.offer(bytes(LARGEST + 1))  # returns although two are in work
    for data in (b"0", b"1"):
        await turns()
        work.finish(data)
    frames.end()
    *_, (number, outcome) = await outcomes(frames)
    assert number == 2
    assert isinstance(outcome, TooLarge)


async def test_a_slow_reader_slows_the_work_and_not_the_memory():
    async def at_once(data: bytes, clock: StageClock, arrived: float) -> Estimate:
        worked.append(data)
        return cast(Estimate, data)

    worked: list[bytes] = []
    frames = FrameQueue(at_once, max_in_flight=2, max_fps=1e6, max_bytes=LARGEST)
    for number in range(50):
        await frames.offer(b"%d" % number)
        await turns()
    assert len(worked) <= 4
    frames.end()
    reasons = [outcome for _, outcome in await outcomes(frames)]
    assert reasons.count("busy") == 50 - len(worked)
    assert reasons[-1] == b"49"  # the newest frame had its turn


async def test_errors_are_outcomes_and_what_was_no_frame_has_no_number():
    async def fail(data: bytes, clock: StageClock, arrived: float) -> Estimate:
        raise BadImage("broken")

    frames = FrameQueue(fail, max_in_flight=2, max_fps=1e6, max_bytes=LARGEST)
    await frames.offer(b"x")
    await frames.offer(BadOption("words"))
    frames.end()
    (number, first), (nobody, second) = await outcomes(frames)
    assert (number, nobody) == (0, None)
    assert isinstance(first, BadImage) and isinstance(second, BadOption)


async def test_closing_cancels_what_is_worked_on():
    work = Work()
    frames = queue(work)
    await frames.offer(b"0")
    await turns()
    await frames.close()
    assert work.running == {}


async def test_an_error_of_the_sender_ends_the_stream_at_once():
    frames = queue(Work())
    await frames.offer(b"0")
    frames.end(ConnectionError("gone"))
    try:
        await outcomes(frames)
    except ConnectionError:
        await frames.close()
    else:
        raise AssertionError("the error was swallowed")


def test_rate_cap_allows_a_short_burst_and_the_rate_in_the_long_run():
    cap = RateCap(10)
    admitted = sum(cap.admits(moment / 100) for moment in range(1000))
    assert 98 <= admitted <= 104
    assert cap.wait_s(100.0) == 0


def test_the_sender_is_held_to_the_rate_though_timers_wake_early():
    """Those of uvloop, which serves, are of whole milliseconds."""
    uvloop = pytest.importorskip("uvloop")

    async def send(count: int) -> float:
        async def at_once(data: bytes, *_: object) -> bytes:
            return data

        frames = queue(at_once, live=False, max_fps=400)
        reading = asyncio.create_task(outcomes(frames))
        began = time.monotonic()
        for _ in range(count):
            await frames.offer(b"frame")
        frames.end()
        await reading
        return time.monotonic() - began

    burst = round(400 * BURST_S)
    assert uvloop.run(send(burst + 120)) >= 119 / 400


def test_a_settled_frame_lets_its_bytes_go():
    frame = Frame(0, b"large")
    frame.settle("busy")
    assert frame.data is None
