"""The command line: posegate.cli, and what it prints."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fakes import DETECTOR_NAME, POSE_NAME, add_copy, encode, make_photo, make_repository
from posegate.cli import app
from posegate.errors import BadOption
from posegate.settings import Settings


@pytest.fixture
def run(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POSEGATE_MODEL_REPOSITORY", str(repository))
    monkeypatch.setenv("POSEGATE_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "7.png"
    path.write_bytes(encode(make_photo()))
    return path


@pytest.mark.parametrize(
    "command", ["serve", "predict", "evaluate", "bench", "models list", "models show"]
)
def test_every_help_shows_an_example(run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: posegate {command}" in result.stdout


def test_predict_streams_one_document_per_line(run, photo: Path) -> None:
    result = run("predict", photo, photo)
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [document["file"] for document in documents] == [str(photo)] * 2
    assert len(documents[0]["people"]) == 2


def test_predict_answers_one_coco_list_for_all_pictures(run, photo: Path, tmp_path: Path) -> None:
    other = tmp_path / "8.png"
    other.write_bytes(photo.read_bytes())
    result = run("predict", photo, other, "--format", "coco")
    assert [entry["image_id"] for entry in json.loads(result.stdout)] == [7, 7, 8, 8]


def test_predict_goes_on_after_a_bad_file_and_says_so_in_its_status(
    run, photo: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    result = run("predict", bad, photo, tmp_path / "gone.jpg", "--out", tmp_path / "out", "--draw")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert str(bad) in result.stderr
    assert "gone.jpg: No such file or directory" in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"7.json", "7.drawn.jpg"}


def test_predict_keeps_the_answers_of_two_pictures_of_one_name(run, tmp_path: Path) -> None:
    cameras = [tmp_path / name for name in ("cam1", "cam2")]
    for seed, camera in enumerate(cameras):
        camera.mkdir()
        (camera / "x.jpg").write_bytes(encode(make_photo(seed=seed), ".jpg"))
    out = tmp_path / "out"
    assert run("predict", *cameras, "--out", out, "--draw").exit_code == 0
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert written == ["cam1/x.drawn.jpg", "cam1/x.json", "cam2/x.drawn.jpg", "cam2/x.json"]


@pytest.mark.parametrize("command", ["predict x.jpg", "evaluate --data .", "bench"])
def test_the_networks_asked_for_are_those_that_stay_loaded(
    run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(settings: Settings) -> None:
        raise BadOption(f"asked for {settings.model} and {settings.detector}")

    for module in ("cli_predict", "cli_measure"):
        monkeypatch.setattr(f"posegate.{module}.running_pipeline", told)
    detector = [] if command == "bench" else ["--detector", "seer"]
    result = run(*command.split(), "--model", "thinker", *detector)
    assert f"asked for thinker and {detector[-1] if detector else None}" in result.stderr


def test_predict_says_of_an_empty_folder_what_was_sought(run, photo: Path, tmp_path: Path) -> None:
    empty = tmp_path / "emptydir"
    empty.mkdir()
    no_match = run("predict", tmp_path / "*.webp")
    for paths in ([empty], [photo, empty]):
        result = run("predict", *paths)
        assert result.exit_code == no_match.exit_code == 1
        assert "emptydir: no .jpg, .jpeg, .png or .webp in it" in result.stderr
        assert len(result.stdout.splitlines()) == len(paths) - 1


def test_predict_takes_as_many_people_as_the_setting_allows(
    run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSEGATE_MAX_PEOPLE", "1")
    assert len(json.loads(run("predict", photo).stdout)["people"]) == 1
    refused = run("predict", photo, "--max-people", "2")
    assert refused.exit_code == 2
    assert "error: max_people is 2; this server allows 1 to 1" in refused.stderr


def test_the_version_is_told(run) -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"posegate \d\S*\n", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "x.jpg", "--model", "nothing"], "error: there is no network 'nothing'"),
        (["predict", "x.jpg", "--min-score", "2"], "error: min_score is 2.0"),
        (["predict", "x.jpg", "--draw"], "--draw needs --out"),
        (["bench", "--concurrency", "0"], "Invalid value for '--concurrency'"),
        (["bench", "--people", "0"], "Invalid value for '--people'"),
        (["models", "show", "nothing"], "error: there is no network 'nothing'"),
        (["models", "list", "--model-repository", "nowhere"], "error: there is no model reposit"),
        (["serve", "--port", "70000"], "error: setting http_port"),
        (["evaluate", "--data", "nowhere"], "person_keypoints.json cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(run, arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command", ["models show bare", "serve --model bare --port 0 --grpc-port 0"]
)
def test_a_network_without_a_card_is_told_what_it_lacks(tmp_path: Path, command: str, run) -> None:
    repository = make_repository(tmp_path)
    file = repository / "bare" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"onnx")
    result = run(*command.split(), "--model-repository", repository)
    assert result.exit_code in (1, 2)
    assert "no card bare/posegate.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_models_are_listed_for_people_and_for_programs(run) -> None:
    table = run("models", "list").stdout
    assert POSE_NAME in table
    assert table.split().count("yes") == 2
    assert max(map(len, table.splitlines())) <= 80
    rows = json.loads(run("models", "list", "--json").stdout)
    assert [(row["name"], row["default"]) for row in rows] == [
        (DETECTOR_NAME, True),
        (POSE_NAME, True),
    ]


def test_a_card_is_shown_for_people_and_for_programs(run) -> None:
    assert "left_shoulder" in run("models", "show", POSE_NAME).stdout
    card = json.loads(run("models", "show", POSE_NAME, "--json").stdout)
    assert card["codec"]["kind"] == "heatmap"


def test_a_card_is_shown_as_the_default_where_it_serves_now(run, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    add_copy(repository, "other")
    shown = {}
    for name in (POSE_NAME, "other"):
        told = run("models", "show", name, "--json", "--model-repository", repository).stdout
        shown[name] = json.loads(told)["default"]
    assert shown == {POSE_NAME: True, "other": False}
    assert re.search(r"default +True", run("models", "show", POSE_NAME).stdout)


def test_a_card_that_is_not_of_its_network_is_not_shown(run, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    card = repository / POSE_NAME / "posegate.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"keypoints": ["nose"]}))
    result = run("models", "show", POSE_NAME, "--model-repository", repository)
    assert result.exit_code == 2
    assert "heatmaps" in result.stderr


def test_settings_in_force_are_printed(run) -> None:
    settings = json.loads(run("serve", "--port", "9", "--print-settings").stdout)
    assert (settings["http_port"], settings["threads"]) == (9, 1)


def test_pictures_of_other_kinds_in_a_folder_are_told(run, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "below"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(encode(make_photo()))
    for name in ("b.HEIC", "c.heic", "d.bmp", ".hidden.bmp", "notes.txt"):
        (folder / name).write_bytes(b"")
    result = run("predict", folder.parent)
    assert result.exit_code == 0
    assert "left out: 1 .bmp, 2 .heic; JPEG, PNG and WebP are taken" in result.stderr
    assert "left out" not in run("predict", folder / "a.png").stderr


def test_evaluate_prints_all_ten_figures(run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "7.png").write_bytes(encode(make_photo()))
    label = {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "bbox": [10, 10, 60, 90],
        "area": 4000,
        "iscrowd": 0,
        "num_keypoints": 17,
        "keypoints": [30, 40, 2] * 17,
    }
    document = {
        "images": [{"id": 7, "file_name": "7.png", "width": 160, "height": 120}],
        "annotations": [label],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "person_keypoints.json").write_text(json.dumps(document))
    report = json.loads(run("evaluate", "--data", tmp_path, "--json").stdout)
    assert len(report["keypoints"]) == 10
    table = run("evaluate", "--data", tmp_path, "--flip-test", "--boxes", "detector").stdout
    assert "ar_large" in table
    refused = run("evaluate", "--data", tmp_path, "--detector", "nope")
    assert refused.exit_code == 2
    assert "there is no network 'nope'" in refused.stderr
    assert "people answered" in " ".join(table.split())
    assert "person boxes" in run("evaluate", "--data", tmp_path, "--task", "boxes").stdout
    repository = make_repository(tmp_path, detector=False)
    alone = ("--model-repository", repository, "--data", tmp_path, "--json")
    assert json.loads(run("evaluate", *alone).stdout)["keypoints"] == report["keypoints"]
    assert "for task 'detect'" in run("evaluate", "--boxes", "detector", *alone).stderr


def test_only_what_needs_a_home_folder_asks_for_one(tmp_path: Path):
    program = (
        "import pathlib, sys\n"
        "def home(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = home\n"
        "from posegate.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", ["posegate", "posenets"])
def test_an_interrupt_while_the_command_is_being_loaded_leaves_no_traceback(
    tmp_path: Path, command: str
):
    interrupted = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\n"
    (tmp_path / "typer.py").write_text(interrupted + "time.sleep(60)\n")
    run = [sys.executable, "-m", command, "--help"]
    loading = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(run, env=loading, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("arguments", [["evaluate", "--data"], ["stream"]])
def test_a_file_that_may_not_be_looked_at_is_said_in_one_line(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    closed, stat = tmp_path / "closed", os.stat

    def refusing_stat(path, **how):
        if isinstance(path, str | Path) and closed in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", refusing_stat)
    result = run(*arguments, closed / "file")
    assert result.exit_code == 2
    assert result.stderr.endswith(f"error: {closed / 'file'}: Permission denied\n")
