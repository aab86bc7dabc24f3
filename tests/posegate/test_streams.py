"""The stream engine of both faces: posegate.streams."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes import encode, make_photo
from posegate.errors import BackendDown, BadOption, DeadlineExceeded, Overloaded, UnknownModel
from posegate.events import Event, Failed, Result, Summary
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from posegate.stages import StageClock
from posegate.streams import StreamOptions, Streams

PHOTO = encode(make_photo())
EVERY = StreamOptions(mode="every")


async def given(*items: object) -> AsyncIterator[object]:
    for item in items:
        yield item


async def endless(*items: object) -> AsyncIterator[object]:
    for item in items:
        yield item
    await asyncio.Event().wait()


class Events(list[Event]):
    """Collects what is sent."""

    async def send(self, event: Event) -> None:
        self.append(event)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def streams(pipeline: Pipeline, settings: Settings, metrics: Metrics) -> Streams:
    return Streams(pipeline, settings, metrics)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(BadOption, match="live, every"):
        StreamOptions(mode="sometimes")


async def test_frames_become_results_and_are_counted(streams: Streams, metrics: Metrics) -> None:
    events = Events()
    await streams.run(given(EVERY, PHOTO, b"words", PHOTO), events.send)
    assert [type(event) for event in events] == [Result, Failed, Result, Summary]
    value = metrics.registry.get_sample_value
    assert value("posegate_people_per_image_count") == 2
    assert value("posegate_rejected_total", {"reason": "bad-image"}) == 1
    stages = events[0].estimate.clock.stages_ms
    for stage in stages.keys() - {"queue", "encode"}:
        labels = {"model": events[0].estimate.model, "stage": stage}
        assert value("posegate_stage_seconds_count", labels) == 2, stage
    assert "queue" in stages and sum(stages.values()) <= events[0].age_ms


async def test_faults_that_nobody_foresaw_are_counted(
    streams: Streams, pipeline: Pipeline, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(pipeline, "estimate", fail)
    events = Events()
    await streams.run(given(EVERY, PHOTO, PHOTO), events.send)
    assert [type(event) for event in events] == [Failed, Failed, Summary]
    assert metrics.registry.get_sample_value("posegate_rejected_total", {"reason": "internal"}) == 2


@pytest.mark.parametrize("track", [False, True])
async def test_the_wait_for_a_slow_reader_is_queueing(streams: Streams, track: bool) -> None:
    clocks: list[StageClock] = []

    async def read_slowly(event: Event) -> None:
        if isinstance(event, Result):
            event.estimate.clock.mark("encode")
            clocks.append(event.estimate.clock)
            await asyncio.sleep(0.3)

    await streams.run(given(StreamOptions(mode="every", track=track), *[PHOTO] * 3), read_slowly)
    stages = clocks[-1].stages_ms
    assert stages["queue"] > 400
    assert stages["keypoints"] + stages["encode"] < 200
    assert sum(stages.values()) == pytest.approx(clocks[-1].total_ms)


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (BadOption("wrong"), BadOption),
        (StreamOptions(estimate=EstimateOptions(model="nobody")), UnknownModel),
    ],
)
async def test_a_bad_beginning_is_raised(
    streams: Streams, first: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await streams.run(given(first), Events().send)


async def test_options_in_mid_stream_cost_an_error(streams: Streams) -> None:
    events = Events()
    await streams.run(given(PHOTO, EVERY), events.send)
    assert isinstance(events[1], Failed)
    assert events[1].frame is None
    assert events[2] == Summary(1, 1, 0, {"busy": 0, "rate": 0}, *_ages(events[2]))


def _ages(event: Event) -> tuple[float | None, float | None]:
    assert isinstance(event, Summary)
    return event.age_p50_ms, event.age_p95_ms


async def test_a_client_that_never_reads_is_let_go(
    pipeline: Pipeline, repository: Path, metrics: Metrics
) -> None:
    settings = Settings(model_repository=repository, request_timeout_s=0.2)
    streams = Streams(pipeline, settings, metrics)

    async def stuck(event: Event) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match="no event was read"):
        await streams.run(endless(PHOTO), stuck)


async def test_asked_to_finish_every_stream_ends_with_its_summary(streams: Streams) -> None:
    first, second = Events(), Events()

    async def stream(events: Events, *items: object) -> None:
        with streams.slot():
            await streams.run(endless(*items), events.send)

    running = [
        asyncio.create_task(stream(first, EVERY, PHOTO)),
        asyncio.create_task(stream(second)),  # has said nothing yet
    ]
    while not first:
        await asyncio.sleep(0.01)
    await streams.finish()
    await asyncio.gather(*running)
    assert [type(event) for event in first] == [Result, Summary]
    assert [type(event) for event in second] == [Summary]
    with pytest.raises(BackendDown) as refusal, streams.slot():
        pass
    assert refusal.value.retry_after_s == 1.0


async def test_the_last_of_several_streams_is_waited_for(streams: Streams) -> None:
    with streams.slot():
        with streams.slot():
            finishing = asyncio.create_task(streams.finish())
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        assert not finishing.done()
    await asyncio.wait_for(finishing, 10)


async def test_frames_have_the_time_that_requests_have(
    pipeline: Pipeline, repository: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(model_repository=repository, request_timeout_s=7.0)
    left_s: list[float] = []

    async def estimate(*_: object, deadline: float, **__: object) -> None:
        left_s.append(deadline - time.monotonic())
        raise BadOption("enough is known")

    monkeypatch.setattr(pipeline, "estimate", estimate)
    await Streams(pipeline, settings, metrics).run(given(EVERY, PHOTO), Events().send)
    assert 6.0 < left_s[0] <= 7.0


async def test_the_number_of_streams_is_bounded(
    pipeline: Pipeline, repository: Path, metrics: Metrics
) -> None:
    streams = Streams(pipeline, Settings(model_repository=repository, max_streams=1), metrics)
    with streams.slot(), pytest.raises(Overloaded, match="max_streams"), streams.slot():
        pass
    with streams.slot():
        pass


async def test_a_cancelled_stream_leaves_no_task_behind(streams: Streams) -> None:
    before = asyncio.all_tasks()
    running = asyncio.create_task(streams.run(endless(PHOTO, PHOTO), Events().send))
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with asyncio.timeout(10):  # a batch that already runs in a thread is not interrupted
        while asyncio.all_tasks() != before:
            await asyncio.sleep(0.01)
