"""crops -> heatmaps, joined: posegate.backends.batching."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import pytest_asyncio

from fakes import FakeBackend, until
from posegate.backends import batching
from posegate.backends.batching import BatchingBackend
from posegate.backends.workers import Workers
from posegate.errors import BackendDown, DeadlineExceeded, Overloaded
from posegate.metrics import Metrics
from posegate.types import F32

SHAPE = (3, 4, 4)
Start = Callable[..., "asyncio.Future[Bench]"]


class Bench:
    """A batcher over an echoing backend of one worker, whose warm-up calls are forgotten."""

    def __init__(self, backend: "EchoBackend", metrics: Metrics, batcher: BatchingBackend) -> None:
        self.backend, self.metrics, self.batcher = backend, metrics, batcher
        self.tasks: list[asyncio.Task[object]] = []

    def ask(self, *values: float, deadline: float | None = None) -> "asyncio.Task[object]":
        """Ask for one crop per value, in the background."""
        task = asyncio.create_task(self.batcher.infer(crops(*values), deadline=deadline))
        self.tasks.append(task)
        return task

    def count(self, name: str, model: str = "echo") -> float:
        value = self.metrics.registry.get_sample_value(name, {"model": model})
        assert value is not None
        return value


class EchoBackend(FakeBackend):
    """Answers each crop's first value, so that a mix-up of callers would show."""

    async def infer(self, tensor: F32) -> tuple[F32, ...]:
        await super().infer(tensor)
        return (tensor[:, 0, 0, :1].copy(), tensor[:, 0, 0, 0].copy())


def crops(*values: float) -> F32:
    return np.repeat(np.array(values, np.float32), 48).reshape(-1, *SHAPE)


def values(inference: object) -> list[float]:
    return inference.outputs[1].tolist()  # type: ignore[attr-defined]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Callable[..., object]]:
    started: list[Bench] = []

    async def build(*, workers: int = 1, **changes: object) -> Bench:
        backend, metrics = EchoBackend(input_shape=SHAPE), Metrics()
        limits = {"max_batch": 8, "max_wait_s": 0.002, "max_queue": 512, **changes}
        batcher = BatchingBackend(
            backend, model="echo", workers=Workers(workers), metrics=metrics, **limits
        )
        await batcher.start()
        backend.calls.clear()
        started.append(Bench(backend, metrics, batcher))
        return started[-1]

    yield build
    for bench in started:
        bench.backend.gate.set()
        for task in bench.tasks:
            task.cancel()
        await asyncio.gather(*bench.tasks, return_exceptions=True)
        await bench.batcher.stop()


async def busy(bench: Bench) -> "asyncio.Task[object]":
    """Hold the one worker with a first call."""
    bench.backend.gate.clear()
    first = bench.ask(0)
    await until(lambda: bench.backend.calls == [1])
    return first


async def test_warm_up_runs_every_batch_size_in_use_before_ready() -> None:
    backend = EchoBackend(input_shape=SHAPE)
    batcher = BatchingBackend(
        backend,
        model="echo",
        workers=Workers(1),
        metrics=Metrics(),
        max_batch=3,
        max_wait_s=0,
        max_queue=9,
    )
    assert batcher.ready() == "network echo is not warmed up"
    await batcher.start()
    assert backend.calls == [1, 2, 3]
    assert batcher.ready() is None
    await batcher.stop()
    assert batcher.ready() == "network echo is not warmed up"


async def test_concurrent_callers_share_a_batch_and_each_gets_its_own_crops(start) -> None:
    bench = await start(max_batch=8)
    first = await busy(bench)
    others = [bench.ask(1), bench.ask(2, 3), bench.ask(4)]
    await asyncio.sleep(0)
    bench.backend.gate.set()
    answers = await asyncio.gather(first, *others)
    assert [values(answer) for answer in answers] == [[0], [1], [2, 3], [4]]
    assert bench.backend.calls == [1, 4]
    assert bench.count("posegate_crops_per_batch_sum") == 5
    assert bench.count("posegate_crops_per_batch_count") == 2
    assert bench.count("posegate_queue_age_seconds_count") == 4


async def test_a_big_request_is_split_and_put_together_in_order(start) -> None:
    bench = await start(max_batch=4)
    answer = await bench.ask(*range(10))
    assert values(answer) == list(range(10))
    assert bench.backend.calls == [4, 4, 2]


async def test_crops_and_answers_are_joined_beside_the_event_loop(
    start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "COPY_WORTH_A_THREAD", 0)
    bench = await start(max_batch=4)
    threads: list[threading.Thread] = []

    def noted(join, *arrays):
        threads.append(threading.current_thread())
        return join(*arrays)

    for name in ("concatenate", "copyto"):
        monkeypatch.setattr(np, name, partial(noted, getattr(np, name)))
    big, small = bench.ask(*range(6)), bench.ask(6)
    assert values(await big) + values(await small) == list(range(7))
    assert bench.backend.calls == [4, 3]
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(("floats", "beside"), [(2**17, False), (2**17 + 1, True)])
async def test_answers_of_over_a_mebibyte_are_copied_beside_the_event_loop(
    start, monkeypatch: pytest.MonkeyPatch, floats: int, beside: bool
) -> None:
    bench = await start(max_batch=2)
    copy, threads = np.copyto, []

    async def large(tensor: F32) -> tuple[F32, ...]:
        return (np.zeros((len(tensor), floats), np.float32),)

    def noted(*arrays):
        threads.append(threading.current_thread())
        copy(*arrays)

    bench.backend.infer = large
    monkeypatch.setattr(np, "copyto", noted)
    await bench.ask(*range(4))
    assert {thread is not threading.main_thread() for thread in threads} == {beside}


async def test_a_batch_does_not_wait_for_other_work_beside_the_event_loop(start) -> None:
    bench = await start()
    await busy(bench)
    go_on = threading.Event()
    others = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(others)
    try:
        others.submit(go_on.wait, 60)
        asked = [bench.ask(1), bench.ask(2)]
        await asyncio.sleep(0)
        bench.backend.gate.set()
        async with asyncio.timeout(10):
            answers = await asyncio.gather(*asked)
        assert [values(answer) for answer in answers] == [[1], [2]]
        assert bench.backend.calls == [1, 2]
    finally:
        go_on.set()


async def test_a_lone_request_is_shared_by_idle_workers(start) -> None:
    bench = await start(workers=2, max_batch=8, max_wait_s=5.0)
    bench.backend.gate.clear()
    task = bench.ask(*range(6))
    await until(lambda: len(bench.backend.calls) == 2)
    bench.backend.gate.set()
    assert values(await task) == list(range(6))
    assert bench.backend.calls == [3, 3]


async def test_a_lone_caller_does_not_wait_for_company(start) -> None:
    bench = await start(max_wait_s=30.0)
    async with asyncio.timeout(2):
        assert values(await bench.ask(7)) == [7]


async def test_while_others_run_a_batch_waits_for_company_but_not_for_ever(start) -> None:
    bench = await start(workers=2, max_wait_s=0.5)
    await busy(bench)
    started = time.monotonic()
    late = [bench.ask(1)]
    await asyncio.sleep(0)
    late.append(bench.ask(2))
    await until(lambda: len(bench.backend.calls) == 2)
    assert time.monotonic() - started >= 0.49
    assert bench.backend.calls == [1, 2]


async def test_a_full_batch_waits_for_nobody(start) -> None:
    bench = await start(workers=2, max_wait_s=600.0, max_batch=3)
    await busy(bench)
    bench.ask(1, 2, 3)
    await until(lambda: bench.backend.calls == [1, 3])


async def test_the_rest_of_a_split_request_waits_for_nobody(start) -> None:
    bench = await start(workers=2, max_wait_s=600.0, max_batch=2)
    let_go, echo = asyncio.Event(), bench.backend.infer

    async def infer(tensor: F32) -> tuple[F32, ...]:
        is_second = len(bench.backend.calls) == 1
        answer = await echo(tensor)
        if is_second:
            await let_go.wait()
        return answer

    bench.backend.infer = infer
    asked = bench.ask(*range(5))
    try:
        await until(lambda: bench.backend.calls == [2, 2, 1])
    finally:
        let_go.set()
    assert values(await asked) == list(range(5))


async def test_a_full_queue_refuses_with_a_time_to_come_back(start) -> None:
    bench = await start(max_queue=3)
    await busy(bench)
    bench.ask(1, 2, 3)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="limit of 3") as refusal:
        await bench.ask(4)
    assert refusal.value.retry_after_s is not None
    assert refusal.value.retry_after_s >= 1


@pytest.mark.parametrize(
    ("delays_s", "retry_after_s"),
    [
        ((0.0, 0.0, 0.0, 0.2), 1.0),  # a pause of the machine, 0.2 s * 512 crops
        ((0.2,), 30.0),  # all that is known is slow
    ],
)
async def test_one_slow_batch_does_not_tell_callers_to_stay_away_for_long(
    start, delays_s: tuple[float, ...], retry_after_s: float
) -> None:
    bench = await start()
    for bench.backend.delay_s in delays_s:
        await bench.ask(0)
    bench.backend.gate.clear()
    bench.ask(*range(512))
    await until(lambda: len(bench.backend.calls) == len(delays_s) + 1)
    with pytest.raises(Overloaded, match="limit of 512") as refusal:
        await bench.ask(*range(9))
    assert refusal.value.retry_after_s == retry_after_s


async def test_callers_are_told_to_come_back_when_the_queue_is_done(start) -> None:
    bench = await start(workers=2)
    bench.backend.delay_s = 0.08
    await bench.ask(*range(4))  # two crops for each worker, 0.04 s a crop
    with pytest.raises(Overloaded) as refusal:
        bench.batcher.check_room(1000, waiting=100)
    assert 2.0 <= refusal.value.retry_after_s < 3.5


async def test_work_whose_deadline_passed_in_the_queue_is_not_computed(start) -> None:
    bench = await start()
    first = await busy(bench)
    late = bench.ask(1, deadline=time.monotonic() + 0.02)
    good = bench.ask(2)
    await asyncio.sleep(0.04)
    bench.backend.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert values(await first) == [0]
    assert values(await good) == [2]
    assert bench.backend.calls == [1, 1]


async def test_a_deadline_in_the_past_is_refused_at_once(start) -> None:
    bench = await start()
    with pytest.raises(DeadlineExceeded):
        await bench.ask(1, deadline=time.monotonic() - 1)
    assert bench.backend.calls == []


async def test_work_that_could_not_start_in_time_is_refused_at_once(start) -> None:
    bench = await start()
    bench.backend.delay_s = 0.05
    await bench.ask(0)
    await busy_after(bench)
    bench.ask(*range(100))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="could not start in time"):
        await bench.ask(1, deadline=time.monotonic() + 1)


async def busy_after(bench: Bench) -> None:
    bench.backend.gate.clear()
    bench.ask(0)
    await until(lambda: len(bench.backend.calls) == 2)


async def test_cancelled_work_is_not_computed(start) -> None:
    bench = await start()
    first = await busy(bench)
    gone, stays = bench.ask(1, 2), bench.ask(3)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    bench.backend.gate.set()
    assert values(await first) == [0]
    assert values(await stays) == [3]
    assert bench.backend.calls == [1, 1]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_caller_gone_while_its_batch_runs_disturbs_nobody(start) -> None:
    bench = await start()
    first = await busy(bench)
    first.cancel()
    await asyncio.sleep(0)
    bench.backend.gate.set()
    assert values(await bench.ask(5)) == [5]


async def test_a_failing_backend_fails_its_batch_only(start, caplog) -> None:
    bench = await start()
    first = await busy(bench)
    others = [bench.ask(1), bench.ask(2)]
    await asyncio.sleep(0)
    bench.backend.gate.set()
    await first
    bench.backend.failure = RuntimeError("out of luck")
    for task in others:
        with pytest.raises(BackendDown, match="network echo failed") as failure:
            await task
        assert failure.value.retry_after_s == 1.0
    bench.backend.failure = None
    assert values(await bench.ask(3)) == [3]
    assert [record.message for record in caplog.records] == ["a batch failed"]


async def test_when_a_part_of_a_split_request_fails_the_rest_is_not_computed(start, caplog) -> None:
    bench = await start(max_batch=2)
    bench.backend.failure = RuntimeError("out of luck")
    with pytest.raises(BackendDown):
        await bench.ask(*range(10))
    assert bench.backend.calls == [2]


async def test_an_answer_for_another_number_of_crops_is_an_error(start) -> None:
    bench = await start()

    async def lie(tensor: F32) -> tuple[F32, ...]:
        return (tensor[:1],)

    bench.backend.infer = lie
    with pytest.raises(BackendDown, match="another number of crops"):
        await bench.ask(1, 2)


async def test_queue_and_inference_times_add_up_to_the_wait(start) -> None:
    bench = await start()
    bench.backend.delay_s = 0.03
    started = time.monotonic()
    first, second = await asyncio.gather(bench.ask(1), bench.ask(2))
    elapsed = time.monotonic() - started
    for inference in (first, second):
        assert 0.029 <= inference.infer_s <= elapsed
        assert inference.infer_s + inference.queue_s <= elapsed
    assert max(first.queue_s, second.queue_s) < elapsed


async def test_time_in_the_queue_is_told_as_such(start) -> None:
    bench = await start()
    await busy(bench)
    waits = bench.ask(1)
    await asyncio.sleep(0.05)
    bench.backend.gate.set()
    assert (await waits).queue_s >= 0.05
    assert bench.count("posegate_queue_age_seconds_sum") >= 0.05


def test_time_that_several_batches_share_counts_once() -> None:
    runs = [(3.0, 4.0), (0.0, 1.0), (0.5, 2.0), (0.6, 0.8), (1.5, 1.75)]
    assert batching._covered(runs) == 3.0


async def test_stop_finishes_what_runs_and_refuses_what_waits(start) -> None:
    bench = await start()
    first = await busy(bench)
    waiting = bench.ask(1)
    await asyncio.sleep(0)
    stopping = asyncio.create_task(bench.batcher.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    bench.backend.gate.set()
    await stopping
    assert values(await first) == [0]
    with pytest.raises(BackendDown, match="stopping"):
        await waiting
    with pytest.raises(BackendDown, match="not running") as refusal:
        await bench.batcher.infer(crops(1))
    assert refusal.value.retry_after_s == 1.0


async def test_workers_are_handed_out_first_come_first_served() -> None:
    workers = Workers(1)
    await workers.acquire()
    order: list[int] = []

    async def take(number: int) -> None:
        await workers.acquire()
        order.append(number)
        workers.release()

    takers = [asyncio.create_task(take(number)) for number in range(3)]
    await asyncio.sleep(0)
    takers[1].cancel()
    await asyncio.sleep(0)
    workers.release()
    await asyncio.gather(*takers, return_exceptions=True)
    assert order == [0, 2]
    assert workers.free == 1
    workers.close()
