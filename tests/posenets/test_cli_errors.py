"""Bad input to the commands of posenets: exit code 1 and one sentence that names file and field."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from posenets.cli import app
from posenets.networks.person_detector import PersonDetector
from posenets.networks.posefpn import PoseFPN
from posenets.training.cache import build_cache
from posenets.training.checkpoint import load_checkpoint, save_checkpoint
from posenets.training.loop import Trainer
from posenets.training.mpii import MPII_KEYPOINTS
from posenets.training.recipe import DetectionRecipe, Phase, read_recipe

POSE = (
    'task = "pose"\nnetwork = "posefpn-small"\nexamples = 4\nwarmup = 4\n'
    "phases = [{ width = 64, height = 64, share = 1.0, batch = 4 }]\n"
)
DETECT = POSE.replace('"pose"', '"detect"').replace("posefpn-small", "person-detector")


def refused(named: str, *arguments: object) -> None:
    """The command ends with 1, says `named` (a pattern) in one line and shows no traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.output
    assert re.fullmatch(f"error: [^\n]*{named}[^\n]*\n", result.stderr), result.stderr


@pytest.fixture
def cached(coco_folder: Path, tmp_path: Path) -> Path:
    build_cache(coco_folder, tmp_path / "cache")
    (tmp_path / "pose.toml").write_text(POSE)
    (tmp_path / "detect.toml").write_text(DETECT)
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        (b"\xff\xfe\x00\x01", r"bad\.toml: not a TOML file"),
        (b"task = ", r"bad\.toml: not a TOML file"),
        (POSE.encode() + b"speed = 1\n", r"bad\.toml: speed: there is no such field"),
        (POSE.replace("width = 64", "width = 65").encode(), r"bad\.toml: phases\.0\.width: "),
        (POSE.replace("posefpn-small", "nosuch").encode(), r"bad\.toml: network: .*'nosuch'"),
        (POSE.replace("posefpn-small", "person-detector").encode(), r"bad\.toml: network: "),
        (None, r"bad\.toml: cannot be read"),
    ],
)
def test_bad_recipes(cached: Path, recipe: bytes | None, named: str) -> None:
    path = cached / "bad.toml"
    if recipe is not None:
        path.write_bytes(recipe)
    refused(named, "train", path, "--cache", cached / "cache", "--out", cached / "run.pt")


@pytest.mark.parametrize(
    ("name", "write", "named"),
    [
        ("a.pt", lambda path: torch.save({"ema": [1, 2]}, path), "field 'ema' holds no weights"),
        ("a.pt", lambda path: torch.save({"ema": None}, path), "field 'ema' holds no weights"),
        ("a.pt", lambda path: torch.save({0: torch.zeros(1)}, path), "holds no weights by name"),
        ("a.pt", lambda path: None, r"a\.pt: cannot be read"),
        ("a.npz", lambda path: path.write_bytes(b"garbage"), r"a\.npz: not an \.npz"),
        ("a.npz", lambda path: path.write_bytes(b""), r"a\.npz: not an \.npz"),
        (
            "a.npz",
            lambda path: np.savez(path, other=np.zeros(3)),
            r"a\.npz: array 'conv00\.weight'",
        ),
        ("a.npz", lambda path: None, r"a\.npz: cannot be read"),
        (
            "a.pt",
            lambda path: torch.save(
                {name: value * math.nan for name, value in PoseFPN().state_dict().items()}, path
            ),
            r"a\.pt: \S+ holds NaN or infinity",
        ),
    ],
)
def test_bad_starts(cached: Path, name: str, write: Callable[[Path], object], named: str) -> None:
    write(cached / name)
    arguments = ["train", cached / "pose.toml", "--cache", cached / "cache"]
    refused(named, *arguments, "--out", cached / "run.pt", "--start", cached / name)
    assert not (cached / "run.pt").exists()


def test_a_damaged_checkpoint_is_not_resumed(cached: Path) -> None:
    run = cached / "run.pt"
    save_checkpoint(run, {"network": {"weight": torch.zeros(8000)}})
    data = bytearray(run.read_bytes())
    data[len(data) // 2] ^= 1
    run.write_bytes(data)
    arguments = ["train", cached / "pose.toml", "--cache", cached / "cache", "--out", run]
    refused(r"run\.pt: damaged in \S+/data/0", *arguments)
    assert run.read_bytes() == data


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("posefpn-small", "litedeconv-small"), "network 'posefpn-small', the recipe has 'lited"),
        (('task = "pose"', 'task = "pose"\noptimiser = "adam"'), "optimiser 'adamw', the recipe"),
    ],
)
def test_another_run_is_not_resumed(cached: Path, change: tuple[str, str], named: str) -> None:
    run = cached / "run.pt"
    save_checkpoint(run, {"recipe": read_recipe(cached / "pose.toml").model_dump_json()})
    data = run.read_bytes()
    other = cached / "other.toml"
    other.write_text((cached / "pose.toml").read_text().replace(*change))
    refused(
        f"{named}.*give another --out", "train", other, "--cache", cached / "cache", "--out", run
    )
    assert run.read_bytes() == data


def test_teacher_boxes_of_other_photos_are_refused(coco_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", "person-detector", "--photos", coco_folder, "--boxes", coco_folder]
    refused("knows none of the photos", *arguments, "--out", tmp_path / "run.pt")


def test_a_repository_without_heatmaps_is_no_success(tmp_path: Path) -> None:
    refused("has no network of heatmaps", "export-decoded", tmp_path)


def test_what_has_to_be_installed_is_told() -> None:
    bare = "import sys; sys.modules['torch'] = None; from posenets.__main__ import main; main()"
    told = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr.startswith("error: posenets needs torch, which is not installed: pip ins")
    assert told.stderr.count("\n") == 1


def test_an_npz_starts_only_networks_with_its_backbone(cached: Path) -> None:
    recipe = cached / "deconv.toml"
    recipe.write_text(POSE.replace("posefpn-small", "litedeconv-small"))
    arguments = ["train", recipe, "--cache", cached / "cache", "--out", cached / "run.pt"]
    refused("litedeconv-small has no backbone", *arguments, "--start", cached / "a.npz")


def test_options_of_the_other_kind_of_recipe_are_refused(cached: Path, coco_folder: Path) -> None:
    pose = ["train", cached / "pose.toml", "--cache", cached / "cache", "--out", cached / "run.pt"]
    for option in ("--photos", "--crops", "--boxes"):
        refused(
            f"{option}: a pose recipe learns from --cache or --labels", *pose, option, coco_folder
        )
    detect = ["train", cached / "detect.toml", "--photos", coco_folder, "--out", cached / "run.pt"]
    for option in ("--cache", "--labels"):
        refused(f"{option}: a detection recipe learns from --photos", *detect, option, coco_folder)


def test_people_come_from_one_source(cached: Path, pack: Path) -> None:
    arguments = ["train", cached / "pose.toml", "--out", cached / "run.pt"]
    named = "give either --cache folders or --labels files"
    refused(named, *arguments)
    refused(named, *arguments, "--cache", cached / "cache", "--labels", pack)


def test_ap_of_sixteen_joints_is_refused_before_training(
    cached: Path, coco_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = cached / "mpii.toml"
    recipe.write_text(POSE.replace("posefpn-small", "litedeconv-mpii"))
    monkeypatch.setattr(Trainer, "run", lambda *_, **__: pytest.fail("trains"))
    build_cache(coco_folder, cached / "mpii", joint_names=MPII_KEYPOINTS)
    arguments = ["train", recipe, "--cache", cached / "mpii", "--out", cached / "run.pt"]
    named = "--evaluate: AP is of COCO's 17 keypoints, litedeconv-mpii has 16 joints"
    refused(named, *arguments, "--evaluate", coco_folder)


def test_what_has_no_effect_is_said(cached: Path) -> None:
    arguments = ["train", cached / "pose.toml", "--cache", cached / "cache"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--out", str(cached / "run.pt")])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("distil: has no effect, as the people come without a teacher")


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("bogus", "--device: 'bogus' is neither cpu nor cuda"),
        ("meta", "--device: 'meta' is neither cpu nor cuda"),
        ("cuda", "--device: no GPU for 'cuda'; torch finds 0"),
    ],
)
def test_bad_devices(
    cached: Path, monkeypatch: pytest.MonkeyPatch, device: str, named: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    arguments = ["train", cached / "pose.toml", "--cache", cached / "cache"]
    refused(named, *arguments, "--out", cached / "run.pt", "--device", device)


def test_detector_is_trained_by_its_own_recipes_on_photos_with_their_boxes(
    cached: Path, coco_folder: Path
) -> None:
    arguments = ["train", cached / "detect.toml", "--photos", coco_folder]
    arguments += ["--out", cached / "run.pt"]
    refused("network: litedeconv finds no boxes", *arguments, "--network", "litedeconv")
    boxes = cached / "boxes.json"
    boxes.write_text("[1, 2]")
    refused(r"boxes\.json: not a file of teacher boxes", *arguments, "--boxes", boxes)
    refused("1 files of teacher boxes for 2 of labels", *arguments, "--boxes", boxes, "--crops",
            coco_folder)  # fmt: skip


@pytest.mark.parametrize("content", [b"no photo", b""])
def test_a_broken_photo_is_named(
    cached: Path, detector: Path, coco_folder: Path, content: bytes
) -> None:
    (coco_folder.parent / "images" / "0.png").write_bytes(content)
    named = r"0\.png: not a readable photo"
    refused(named, "calibrate", detector, "--photos", coco_folder)
    arguments = ["train", cached / "detect.toml", "--photos", coco_folder]
    refused(named, *arguments, "--out", cached / "run.pt")
    refused(named, "cache", coco_folder, cached / "other")


@pytest.mark.parametrize("labels", ["[]", '{"images": [], "annotations": []}'])
def test_labels_without_people_make_no_cache(tmp_path: Path, labels: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(labels)
    refused(r"labels\.json: ", "cache", path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"ema": {"a": torch.zeros(1)}}, "field 'recipe' is missing"),
        ({"recipe": "{}", "ema": {"a": torch.zeros(1)}}, "field 'recipe': "),
        ({"recipe": "{}", "ema": [1]}, "field 'ema' holds no weights by name"),
    ],
)
def test_bad_checkpoints_to_export(tmp_path: Path, state: dict[str, Any], named: str) -> None:
    torch.save(state, tmp_path / "run.pt")
    (tmp_path / "about.json").write_text("{}")
    arguments = ["export", tmp_path / "run.pt", "--repository", tmp_path / "models"]
    refused(f"run.pt: {named}", *arguments, "--name", "made", "--about", tmp_path / "about.json")
    refused("run.pt: field 'recipe'", *arguments)
    (tmp_path / "about.json").write_text('{"speed": 1}')
    named = (
        r"about\.json: speed: .* the fields are description, data, length, machine, licence, notes"
    )
    refused(named, *arguments, "--name", "made", "--about", tmp_path / "about.json")
    refused("--name: 'a/b' is more than", *arguments, "--name", "a/b", "--network", "hrnet-w32")


def test_help_of_export_names_the_facts_for_the_card() -> None:
    said = CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).stdout
    assert "description, data, length, machine, licence, notes" in said


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert re.fullmatch(r"posenets \d\S*\n", result.stdout)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """A checkpoint whose random detector is as good as sure of every point."""
    torch.manual_seed(0)
    network = PersonDetector()
    torch.nn.init.zeros_(network.score.bias)
    phases = (Phase(width=96, height=96, share=1.0),)
    recipe = DetectionRecipe(task="detect", network="person-detector", examples=1, phases=phases)
    path = tmp_path / "detector.pt"
    save_checkpoint(path, {"ema": network.state_dict(), "recipe": recipe.model_dump_json()})
    return path


def test_calibrate_keeps_slope_and_shift_in_the_checkpoint(
    detector: Path, coco_folder: Path
) -> None:
    before = load_checkpoint(detector)
    result = CliRunner().invoke(app, ["calibrate", str(detector), "--photos", str(coco_folder)])
    assert result.exit_code == 0, result.output
    after = load_checkpoint(detector)
    assert set(after) == {*before, "calibration"}
    assert set(after["calibration"]) == {"slope", "shift"}
    assert all(np.isfinite(value) for value in after["calibration"].values())
    assert re.search(r"slope -?\d\S*, shift -?\d\S* from \d+ boxes", result.stdout)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda labels: labels.update(annotations=[]), r"labels\.json: annotations name no person"),
        (lambda labels: labels.update(images=[], annotations=[]), r"labels\.json: "),
        (lambda labels: labels["images"][0].update(file_name="no.png"), r"labels\.json: .*no\.png"),
        (
            lambda labels: [row.update(bbox=[0, 0, 1, 1]) for row in labels["annotations"]],
            r"labels\.json: of the \d+ boxes .* higher scores are not more often right",
        ),
    ],
)
def test_calibrate_refuses_labels_that_teach_nothing(
    detector: Path, coco_folder: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    labels = json.loads(coco_folder.read_text())
    change(labels)
    coco_folder.write_text(json.dumps(labels))
    before = detector.read_bytes()
    refused(named, "calibrate", detector, "--photos", coco_folder)
    assert detector.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("recipe"), "field 'recipe' is missing"),
        (lambda state: state.update(recipe="{}"), "field 'recipe': "),
        (lambda state: state.update(ema={"a": torch.zeros(1)}), "does not fit PersonDetector"),
        (
            lambda state: state.update(recipe=state["recipe"].replace('"detect"', '"pose"')),
            "field 'recipe': ",
        ),
    ],
)
def test_calibrate_refuses_what_is_no_detector(
    detector: Path, coco_folder: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    state = load_checkpoint(detector)
    change(state)
    save_checkpoint(detector, state)
    before = detector.read_bytes()
    refused(f"detector.pt: {named}", "calibrate", detector, "--photos", coco_folder)
    assert detector.read_bytes() == before
