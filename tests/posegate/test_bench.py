"""How fast: posegate.bench, in process and against a service of its own."""

from pathlib import Path

import pytest

from fakes import black_photo, encode, make_photo
from posegate.bench import bench, found_jobs, made_jobs
from posegate.errors import BackendDown, BadOption
from posegate.loadclient import Connection
from posegate.pipeline import Pipeline


async def test_both_faces_are_measured_for_every_cell(pipeline: Pipeline, repository: Path) -> None:
    rows = await bench(
        pipeline, repository=repository, threads=1, people=(2,), concurrency=(1, 3), seconds=0.1
    )
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


async def test_a_bad_picture_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture")
    with pytest.raises(BadOption, match=r"bad\.jpg cannot be used"):
        await found_jobs(pipeline, [str(tmp_path)], 1, model=None)


async def test_a_service_that_is_not_there_is_named(
    pipeline: Pipeline, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posegate.loadclient.START_TIMEOUT_S", 0.2)
    with pytest.raises(BackendDown, match=r"http://127\.0\.0\.1:9 does not become ready"):
        await bench(
            pipeline, repository=repository, threads=1, url="http://127.0.0.1:9", people=(1,)
        )
    with pytest.raises(BadOption, match="must look like"):
        Connection("ftp://somewhere")
