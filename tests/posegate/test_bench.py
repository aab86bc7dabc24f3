"""How fast: posegate.bench, in process and against a service of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest

from fakes import add_copy, black_photo, encode, make_photo, make_repository
from posegate.bench import WARM_UP_CALLS, _row, _Taken, bench, found_jobs, made_jobs
from posegate.errors import BackendDown, BadOption
from posegate.loadclient import Connection, poses_path, running_server
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings, load_settings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def test_both_faces_are_measured_for_every_cell(
    pipeline: Pipeline, settings: Settings
) -> None:
    rows = await bench(pipeline, settings, people=(2,), concurrency=(1, 3), seconds=0.1)
    cells = [(row.face, row.people, row.concurrency) for row in rows]
    assert cells == [("process", 2, 1), ("http", 2, 1), ("process", 2, 3), ("http", 2, 3)]
    for row in rows:
        assert row.images > 0
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.images_per_s > 0
    alone = rows[0]
    assert alone.network_ms is not None
    assert alone.other_share is not None
    assert 0 < alone.other_share < 1
    assert rows[1].other_share is rows[2].other_share is None


@pytest.mark.parametrize(
    ("latency_s", "p95_ms"),
    [
        ([0.1], 100),
        ([0.2, 0.1, 0.1, 0.1, 0.1], 180),
        ([0.1] * 99 + [0.4], 100),
    ],
)
def test_one_call_in_twenty_is_slower_than_p95_and_none_made_up(
    latency_s: list[float], p95_ms: float
) -> None:
    taken = _Taken(latency_s, network_s=[0.0] * len(latency_s), elapsed_s=1.0)
    assert _row("http", 1, 1, taken).p95_ms == pytest.approx(p95_ms)


@pytest.mark.parametrize("people", [1, 8, 16])
async def test_the_made_photo_holds_so_many_people(pipeline: Pipeline, people: int) -> None:
    (job,) = made_jobs(people, model=None)
    estimate = await pipeline.estimate(job.data, job.options)
    assert len(estimate.poses) == people
    assert (estimate.image.width, estimate.image.height) == (640, 480)


async def test_pictures_without_enough_people_are_left_out(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "people.png").write_bytes(encode(make_photo()))
    (tmp_path / "nobody.png").write_bytes(encode(black_photo()))
    counts = [len(await found_jobs(pipeline, [str(tmp_path)], n, model=None)) for n in (1, 2, 3)]
    assert counts == [1, 1, 0]


async def test_so_many_boxes_are_looked_at_as_people_are_asked_for(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "people.png").write_bytes(encode(make_photo()))
    for people in (1, 2):
        (job,) = await found_jobs(pipeline, [str(tmp_path)], people, model=None)
        anybody = replace(job.options, max_people=None)
        assert len(await pipeline.find_people(job.data, anybody)) == people


async def test_a_bad_picture_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    with pytest.raises(BadOption, match=r"bad\.jpg cannot be used"):
        await found_jobs(pipeline, [str(tmp_path)], 1, model=None)


async def test_a_service_that_is_not_there_is_named(
    pipeline: Pipeline, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posegate.loadclient.START_TIMEOUT_S", 0.2)
    with pytest.raises(BackendDown, match=r"http://127\.0\.0\.1:9 does not become ready"):
        await bench(pipeline, settings, url="http://127.0.0.1:9", people=(1,))
    with pytest.raises(BadOption, match="must look like"):
        Connection("ftp://somewhere")
    with pytest.raises(BackendDown, match=r"http://127\.0\.0\.1:9 cannot be reached: "):
        await Connection("http://127.0.0.1:9").open()


async def test_why_a_service_does_not_become_ready_is_said(
    pipeline: Pipeline, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posegate.loadclient.START_TIMEOUT_S", 0.2)
    with pytest.raises(BackendDown, match=r"ready: http://127\.0\.0\.1:9 cannot be reached: "):
        await bench(pipeline, settings, url="http://127.0.0.1:9", people=(1,))
    asleep = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 13\r\n\r\nTriton sleeps"
    async with speaking(repeat(asleep)) as url:
        with pytest.raises(BackendDown, match=r"/readyz answered 503: Triton sleeps$"):
            await bench(pipeline, settings, url=url, people=(1,))


async def test_the_service_has_the_settings_in_force_but_asks_for_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = make_repository(tmp_path)
    add_copy(repository, "other")
    config = tmp_path / "posegate.toml"
    config.write_text(f'max_people = 1\nmodel_repository = "{repository}"\nhost = "::1"\n')
    monkeypatch.setenv("POSEGATE_CONFIG", str(config))
    monkeypatch.setenv("POSEGATE_API_KEY_SHA256", "0" * 64)
    settings = load_settings(model="other", threads=1)
    async with running_server(settings) as url:
        connection = Connection(url)
        await connection.open()
        path = poses_path(EstimateOptions())
        status, body = await connection.request("POST", path, encode(make_photo()))
        await connection.close()
    assert status == 200, body
    answer = json.loads(body)
    assert (answer["model"], len(answer["people"])) == ("other", 1)


@asynccontextmanager
async def speaking(answers: Iterable[bytes]) -> AsyncIterator[str]:
    """A server that gives one answer per request and hangs up after one that is not HTTP."""
    left = iter(answers)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = OK
        with suppress(asyncio.IncompleteReadError):
            while answer.startswith(b"HTTP"):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.split(b"Content-Length: ")[1]))
                writer.write(answer := next(left))
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0\x12\x04",  # as a gRPC port
        b"220 mail\r\n\r\n",
        b"x" * 100_000,
    ],
)
async def test_an_address_where_something_else_speaks_is_said(
    pipeline: Pipeline, settings: Settings, answer: bytes
) -> None:
    async with speaking([answer]) as url:
        with pytest.raises(BackendDown, match="this is not its HTTP port"):
            await bench(pipeline, settings, url=url, people=(1,))


async def test_a_refusal_among_several_callers_is_said(
    pipeline: Pipeline, settings: Settings
) -> None:
    ready_and_warm = [OK] * (1 + 2 * WARM_UP_CALLS)
    async with speaking(chain(ready_and_warm, repeat(OK.replace(b"200", b"503")))) as url:
        with pytest.raises(BackendDown, match="the service answered 503"):
            await bench(pipeline, settings, url=url, people=(1,), concurrency=(2,), seconds=0.05)


async def test_pictures_of_fewer_people_than_asked_for_are_said(
    pipeline: Pipeline, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "people.png").write_bytes(encode(make_photo()))
    with pytest.raises(BadOption, match="finds 3, 16 people in none of the pictures"):
        await bench(pipeline, settings, images=[str(tmp_path)], people=(3, 16))
