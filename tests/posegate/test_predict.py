"""files -> poses: posegate.predict and posegate.ordered."""

import asyncio
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from fakes import POSE_NAME, black_photo, encode, make_photo
from posegate.errors import BackendDown, BadOption, PosegateError, Unauthenticated, UnknownModel
from posegate.options import EstimateOptions
from posegate.ordered import in_order
from posegate.pipeline import Estimate, Pipeline
from posegate.predict import Prediction, Source, find_sources, predict, write_prediction


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos in it and one below, and a note."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    (folder / "b.png").write_bytes(encode(make_photo()))
    (folder / "a.JPG").write_bytes(encode(make_photo(seed=1), ".jpg"))
    (folder / "below" / "a.png").write_bytes(encode(black_photo()))
    (folder / "notes.txt").write_text("no picture")
    return folder


def outputs(patterns: list[str]) -> list[str]:
    return [str(source.output) for source in find_sources(patterns)]


def test_a_folder_gives_its_pictures_in_order_and_keeps_its_shape(photos: Path) -> None:
    assert outputs([str(photos)]) == ["a", "b", "below/a"]


def test_a_glob_and_a_file_give_what_they_name(photos: Path) -> None:
    assert outputs([str(photos / "*.png")]) == ["b"]
    assert outputs([str(photos / "**/*.png")]) == ["b", "a"]
    assert outputs([str(photos / "notes.txt")]) == ["notes"]


def test_a_glob_that_names_folders_and_their_files_gives_each_once(photos: Path) -> None:
    (photos / "notes.txt").unlink()
    assert sorted(outputs([str(photos / "**")])) == ["a", "b", "below/a"]


def test_two_pictures_of_one_name_do_not_share_an_output(photos: Path) -> None:
    (photos / "b.jpg").write_bytes(encode(make_photo(), ".jpg"))
    assert outputs([str(photos / "b.*")]) == ["b.jpg", "b.png"]


@pytest.mark.parametrize(
    ("files", "patterns", "named"),
    [
        # folders given by name, and files of different folders
        (["1/x.jpg", "2/x.jpg"], ["1", "2"], ["1/x", "2/x"]),
        (["1/x.jpg", "2/x.jpg"], ["1/x.jpg", "2/x.jpg"], ["1/x", "2/x"]),
        # only those that clash get longer names, and the suffix where folders do not tell
        (
            ["1/x.jpg", "1/x.png", "2/x.jpg", "2/y.jpg"],
            ["1", "2"],
            ["1/x.jpg", "1/x.png", "2/x", "y"],
        ),
        # a longer name may not be another picture's
        (["x.jpg", "x.png", "x.jpg.png"], ["*"], ["x.jpg", "x.jpg.png", "x.png"]),
        # one picture given twice is one picture
        (["1/x.jpg"], ["1", "1/x.jpg"], ["x", "x"]),
    ],
)
def test_pictures_of_one_name_are_told_apart_by_folder_then_suffix(
    tmp_path: Path, files: list[str], patterns: list[str], named: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert outputs([str(tmp_path / pattern) for pattern in patterns]) == named


def test_what_matches_nothing_is_kept_to_be_reported(tmp_path: Path) -> None:
    missing, pattern = str(tmp_path / "missing.jpg"), str(tmp_path / "*.jpg")
    assert [str(source.path) for source in find_sources([missing, pattern])] == [missing, pattern]


def test_an_empty_folder_is_kept_to_be_reported_unless_a_glob_has_more(photos: Path) -> None:
    empty = photos / "empty"
    empty.mkdir()
    assert [source.path for source in find_sources([str(empty)])] == [empty]
    assert outputs([str(photos / "[be]*")]) == ["b", "a"]


async def collect(pipeline: Pipeline, sources: list[Source], **options: object) -> list[Prediction]:
    return [p async for p in predict(pipeline, sources, EstimateOptions(), **options)]


async def test_one_bad_file_is_reported_and_the_rest_goes_on(
    pipeline: Pipeline, photos: Path
) -> None:
    paths = [str(photos / name) for name in ("a.JPG", "notes.txt", "missing.png", "b.png")]
    answers = await collect(pipeline, find_sources(paths))
    assert [str(answer.source.path) for answer in answers] == paths
    assert [answer.text is not None for answer in answers] == [True, False, False, True]
    assert answers[1].error is not None
    assert answers[2].error == "No such file or directory"
    document = json.loads(answers[3].text or "")
    assert document["model"] == POSE_NAME
    assert len(document["people"]) == 2
    assert next(iter(document["stages_ms"])) == "read"


def test_what_may_not_be_looked_at_is_kept_to_be_reported(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = photos / "below"
    stat, scandir = os.stat, os.scandir

    def refusing_stat(path: Any, **how: Any) -> os.stat_result:
        if closed in Path(os.fspath(path)).parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    def refusing_scandir(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "stat", refusing_stat)
    assert outputs([str(closed / "a.png"), str(closed / "b.png")]) == ["a", "b"]
    assert outputs([str(photos)]) == ["a", "b", "below/a"]
    monkeypatch.setattr(os, "scandir", refusing_scandir)
    assert outputs([str(photos)]) == ["a", "b", "below"]


async def test_a_file_that_never_ends_is_not_read_to_its_end(pipeline: Pipeline) -> None:
    endless = Source(Path("/dev/zero"), Path("zero"))
    (told,) = await collect(pipeline, [endless], max_bytes=1000)
    assert told.error == "The file has more than the 1000 bytes that are allowed."


async def test_coco_results_carry_the_id_in_the_file_name(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    path = tmp_path / "000000000139.png"
    path.write_bytes(encode(make_photo()))
    (answer,) = await collect(pipeline, find_sources([str(path)]), form="coco")
    results = json.loads(answer.text or "")
    assert [result["image_id"] for result in results] == [139, 139]
    assert all(len(result["keypoints"]) == 51 for result in results)


async def test_coco_results_of_two_pictures_never_share_an_id(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Names that are numbers serve only where all are, and differ; else results name the file."""
    for folder, names in (("a", ("7.png", "9.png")), ("b", ("7.png", "party.png"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(encode(make_photo()))

    async def ids(*folders: str) -> dict[str, set[int]]:
        answers = await collect(
            pipeline, find_sources([str(tmp_path / folder) for folder in folders]), form="coco"
        )
        rows = [row for answer in answers for row in json.loads(answer.text or "")]
        told: dict[str, set[int]] = {}
        for row in rows:
            name = str(Path(row["file_name"]).relative_to(tmp_path))
            told.setdefault(name, set()).add(row["image_id"])
        return told

    assert await ids("a") == {"a/7.png": {7}, "a/9.png": {9}}
    assert await ids("b") == {"b/7.png": {0}, "b/party.png": {1}}
    assert await ids("a", "b") == {
        "a/7.png": {0}, "a/9.png": {1}, "b/7.png": {2}, "b/party.png": {3},
    }  # fmt: skip


def test_a_search_leaves_drawn_pictures_out_and_tells_of_broken_links(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.drawn.jpg", "a.json"):
        (tmp_path / name).touch()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert outputs([str(tmp_path)]) == ["a", "gone"]
    assert outputs([str(tmp_path / "a*.jpg")]) == ["a"]
    assert outputs([str(tmp_path / "a.drawn.jpg")]) == ["a.drawn"]


def test_what_is_hidden_in_a_folder_is_left_out_but_for_what_is_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg", ".thumbnails/a.jpg", "below/.small/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert outputs([str(tmp_path)]) == ["a"]
    assert outputs([str(tmp_path / ".thumbnails")]) == ["a"]
    assert outputs([str(tmp_path / "._a.jpg")]) == ["._a"]


def test_linked_folders_are_searched_each_once(tmp_path: Path) -> None:
    for name in ("photos/a.jpg", "elsewhere/b.jpg", "elsewhere/deep/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "photos/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "photos")
    assert outputs([str(tmp_path / "photos")]) == ["a", "link/b", "link/deep/c"]


@pytest.mark.parametrize("name", ["", "-", "https://pictures/a.jpg"])
def test_what_names_no_file_is_refused(name: str) -> None:
    with pytest.raises(BadOption):
        find_sources(["a.jpg", name])


@pytest.mark.parametrize("kind", [BackendDown, BadOption, Unauthenticated, UnknownModel])
async def test_what_a_service_says_of_every_picture_ends_the_run(
    photos: Path, kind: type[PosegateError]
) -> None:
    asked = []

    class Refusing:
        async def estimate(self, data: bytes, *_: object, **__: object) -> Estimate:
            asked.append(data)
            raise kind("the same for all")

    sources = find_sources([str(photos)]) * 10
    with pytest.raises(kind, match="the same for all"):
        _ = [p async for p in predict(Refusing(), sources, EstimateOptions(), ahead=2)]
    assert len(asked) <= 2


async def test_nobody_is_an_answer_in_both_forms(pipeline: Pipeline, photos: Path) -> None:
    sources = find_sources([str(photos / "below")])
    (poses,) = await collect(pipeline, sources, form="poses")
    assert json.loads(poses.text or "")["people"] == []
    (coco,) = await collect(pipeline, sources, form="coco")
    assert coco.text == "[]"


async def test_json_and_drawn_picture_are_written_beside_each_other(
    pipeline: Pipeline, photos: Path, tmp_path: Path
) -> None:
    for answer in await collect(pipeline, find_sources([str(photos)]), draw=True):
        write_prediction(answer, tmp_path / "out")
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    names = ("a", "b", "below/a")
    assert written == sorted(name + end for name in names for end in (".drawn.jpg", ".json"))
    drawn = cv2.imread(str(tmp_path / "out" / "b.drawn.jpg"))
    assert drawn.shape == make_photo().shape
    assert (cv2.absdiff(drawn, make_photo()).max(axis=2) > 60).any(), "nothing was drawn"


async def test_a_folder_that_cannot_be_written_is_named(pipeline: Pipeline, photos: Path) -> None:
    (answer,) = await collect(pipeline, find_sources([str(photos / "b.png")]))
    with pytest.raises(BadOption, match="cannot write to"):
        write_prediction(answer, photos / "notes.txt")


async def test_a_full_disk_leaves_no_part_of_a_file(
    pipeline: Pipeline, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (answer,) = await collect(pipeline, find_sources([str(photos / "b.png")]), draw=True)
    assert answer.picture is not None
    write = Path.write_bytes

    def write_half(path: Path, data: bytes) -> int:
        if data != answer.picture:
            return write(path, data)
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(BadOption, match="No space left on device"):
        write_prediction(answer, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.json"]


async def test_a_name_too_long_to_write_concerns_one_picture(
    pipeline: Pipeline, photos: Path
) -> None:
    (answer,) = await collect(pipeline, find_sources([str(photos / "b.png")]))
    long = replace(answer, source=replace(answer.source, output=Path("a" * 252)))
    assert "too long" in (write_prediction(long, photos) or "")
    assert write_prediction(answer, photos) is None


async def test_results_come_in_order_with_bounded_work_ahead() -> None:
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (5 - number % 5))
        running -= 1
        return number * 10

    results = [result async for result in in_order(range(12), work, ahead=3)]
    assert results == [number * 10 for number in range(12)]
    assert most == 3


async def test_leaving_early_cancels_the_work_ahead() -> None:
    cancelled = []

    async def work(number: int) -> int:
        try:
            await asyncio.sleep(0 if number == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    results = in_order(range(5), work, ahead=3)
    assert await anext(results) == 0
    await results.aclose()
    assert cancelled == [1, 2]
