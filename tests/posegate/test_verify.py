"""network and its forms -> how far they lie from each other: posegate.verify."""

import asyncio
import errno
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from typer.testing import CliRunner

from fakes import (
    DETECTOR_NAME,
    POSE_NAME,
    add_form,
    black_photo,
    encode,
    make_photo,
    make_repository,
)
from labelled_folder import BOXES, label, write
from posegate import verify as verify_module
from posegate.catalog import load_card, load_catalog
from posegate.cli import app
from posegate.errors import BadOption
from posegate.loadclient import poses_path
from posegate.options import EstimateOptions
from posegate.plan_files import write_record
from posegate.skeleton import COCO_KEYPOINTS
from posegate.verify import Check, against_plan, write_checks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two labelled photos, on which the made network sees the truth."""
    (tmp_path / "images").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "images" / name).write_bytes(encode(make_photo(width=640, height=480)))
    write(tmp_path, [label(1, 1, BOXES[0]), label(2, 2, BOXES[1])])
    return tmp_path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_repository(tmp_path, detector=False)


def run(
    models: Path, data: Path, *options: str, name: str = POSE_NAME
) -> tuple[int, list[dict[str, Any]], str]:
    arguments = ["models", "verify", name, "--data", str(data), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--model-repository", str(models), *options])
    rows = json.loads(result.stdout) if result.stdout.startswith("[") else []
    return result.exit_code, rows, result.stderr


def test_form_and_service_that_agree_pass_and_are_written_into_the_card(
    models: Path, folder: Path
) -> None:
    add_form(models, "int8", lambda heatmaps: 0.9 * heatmaps)
    code, rows, _ = run(models, folder, "--write")
    assert code == 0, rows
    by_form = {row["form"]: row for row in rows}
    assert list(by_form) == ["onnx-fp32", "int8", "http"]
    assert "there is no training.pt" in by_form["onnx-fp32"]["note"]
    assert by_form["int8"]["ap_diff"] == 0.0
    assert by_form["int8"]["max_pixel_diff"] < 0.05
    assert 0 < by_form["http"]["max_pixel_diff"] <= 0.02
    card = load_card(models / POSE_NAME / "posegate.json")
    assert [row.form for row in card.verification] == ["onnx-fp32", "int8", "http"]
    assert card.verification[1].ap_diff == 0.0
    run(models, folder, "--write")
    assert len(load_card(models / POSE_NAME / "posegate.json").verification) == 3


def test_people_labelled_outside_their_photo_are_named(models: Path, folder: Path) -> None:
    outside = [700.0, 500.0, 50.0, 80.0]
    write(folder, [label(1, 1, BOXES[0]), label(2, 2, outside)])
    code, _, said = run(models, folder)
    assert code == 2
    assert "2.png: boxes[0] is [700.0, 500.0, 50.0, 80.0], wholly outside the picture" in said
    write(folder, [label(2, 2, BOXES[1], num_keypoints=0)])
    code, _, said = run(models, folder)
    assert (code, "shows a labelled person" in said) == (2, True)


def test_form_that_lost_its_joints_fails(models: Path, folder: Path) -> None:
    add_form(models, "fp16", lambda heatmaps: heatmaps[..., ::-1, ::-1])
    (models / POSE_NAME / "1" / "model.plan").write_bytes(b"a plan that nobody knows")
    code, rows, _ = run(models, folder)
    assert code == 1
    assert [row["ok"] for row in rows if row["form"] == "plan"] == [False]
    (form,) = [row for row in rows if row["form"] == "fp16"]
    assert form["ok"] is False
    assert form["ap_diff"] < -0.5
    assert form["max_pixel_diff"] > 10


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    """A photo whose labels are the made detector's boxes, and one with nobody."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(encode(make_photo(width=64, height=64)))
    (tmp_path / "images" / "2.png").write_bytes(encode(black_photo()))
    boxes = [[4.0, 8.0, 24.0, 38.0], [36.0, 10.0, 24.0, 34.0]]
    write(tmp_path, [label(number, 1, box) for number, box in enumerate(boxes, 1)])
    return tmp_path


def test_detector_is_checked_by_its_boxes(crowd: Path) -> None:
    models = make_repository(crowd)
    boxes = {"of": DETECTOR_NAME, "constant": "made_boxes"}
    add_form(models, "fp16", lambda boxes: boxes + 0.1, **boxes)
    add_form(models, "int8", lambda boxes: np.full_like(boxes, 20), **boxes)
    code, rows, _ = run(models, crowd, "--write", name=DETECTOR_NAME)
    by_form = {row["form"]: row for row in rows}
    assert list(by_form) == ["onnx-fp32", "fp16", "int8", "http"]
    assert (by_form["fp16"]["ok"], by_form["fp16"]["ap_diff"]) == (True, 0.0)
    assert by_form["fp16"]["max_pixel_diff"] == pytest.approx(0.1 * 2**0.5, abs=1e-3)
    assert by_form["int8"]["ok"] is False, "its boxes have no area, so it finds nobody"
    assert by_form["int8"]["ap_diff"] == -1.0
    assert by_form["int8"]["max_pixel_diff"] == pytest.approx(np.hypot(24, 38), abs=1e-3)
    assert by_form["http"]["ok"]
    assert code == 1
    card = load_card(models / DETECTOR_NAME / "posegate.json")
    assert [row.form for row in card.verification] == list(by_form)


def test_boxes_of_another_detector_over_http_are_noticed(
    crowd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = make_repository(crowd)
    moved = {"of": DETECTOR_NAME, "constant": "made_boxes"}
    add_form(models, "moved", lambda boxes: boxes + 0.5, **moved)
    asked = EstimateOptions(detector=f"{DETECTOR_NAME}-moved")
    monkeypatch.setattr(verify_module, "poses_path", lambda _: poses_path(asked))
    code, rows, _ = run(models, crowd, name=DETECTOR_NAME)
    (row,) = [row for row in rows if row["form"] == "http"]
    assert (code, row["ok"]) == (1, False)
    assert row["max_pixel_diff"] == pytest.approx(0.5**0.5, abs=0.02)


# what the record of a plan says, whether the row is ok, and the words of its note
@pytest.mark.parametrize(
    ("changes", "ok", "words"),
    [
        ({}, True, "SM 8.9, TensorRT 101300, on photos crops"),
        ({"max_pixel_diff": 2.8}, False, "2.80 px from the ONNX file"),
        ({"oks": 0.9}, False, "OKS 0.9000"),
        ({"onnx_sha256": "0" * 64}, False, "of another model.onnx"),
        (None, False, "nothing known"),
    ],
)
def test_the_record_of_a_plan_is_a_row(models: Path, changes, ok, words) -> None:
    model = load_catalog(models).models[POSE_NAME]
    version = model.onnx_path.parent
    (version / "model.plan").write_bytes(b"a plan")
    if changes is not None:
        tied = {"onnx_sha256": model.card.sha256, "tensorrt": "101300", "sm": "8.9"}
        told = {"precision": "fp16", "crops": "photos"}
        figures = {"max_abs_diff": 0.001, "max_pixel_diff": 0.1, "oks": 0.9999}
        write_record(version, tied | told | figures | changes)
    (row,) = against_plan(model)
    assert row.ok is ok
    assert row.form == ("plan" if changes is None else "plan-fp16")
    assert words in row.note


def test_network_without_a_card_is_named_with_the_file_that_is_missing(
    models: Path, folder: Path
) -> None:
    (models / POSE_NAME / "posegate.json").unlink()
    code, _, complaint = run(models, folder)
    assert code == 2
    assert f"{models / POSE_NAME} has no card posegate.json" in complaint


def test_unknown_network_is_refused(models: Path, folder: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["models", "verify", "nosuch", "--data", str(folder), "--model-repository", str(models)],
    )
    assert result.exit_code == 2
    assert "no network 'nosuch'" in result.stderr


@pytest.mark.parametrize("urls", ["127.0.0.1", "http://127.0.0.1:8001", ""])
def test_address_that_is_none_of_a_triton_is_refused(models: Path, folder: Path, urls: str) -> None:
    code, rows, complaint = run(models, folder, "--triton-urls", urls)
    assert (code, rows) == (2, [])
    assert "needs host:port of at least one Triton, without http://" in complaint


def test_tritons_that_are_named_are_asked(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tritonclient")
    monkeypatch.setattr("posegate.build.START_TIMEOUT_S", 0.5)
    code, _, complaint = run(models, folder, "--triton-urls", "127.0.0.1:9, 127.0.0.1:10")
    assert code == 2
    assert all(f"{url} " in complaint for url in ("127.0.0.1:9", "127.0.0.1:10"))


def test_tritons_are_not_asked_unless_named(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSEGATE_TRITON_URLS", "127.0.0.1:9")
    code, rows, _ = run(models, folder)
    assert (code, [row["form"] for row in rows]) == (0, ["onnx-fp32", "http"])


def test_rows_of_other_forms_stay_on_the_card(models: Path) -> None:
    folder = models / POSE_NAME
    write_checks(folder, [Check("plan-fp16", True, ap_diff=-0.001)])
    write_checks(folder, [Check("http", True, max_pixel_diff=0.01)])
    forms = [row.form for row in load_card(folder / "posegate.json").verification]
    assert forms == ["plan-fp16", "http"]


def test_row_that_was_not_checked_replaces_none_that_was(models: Path) -> None:
    folder = models / POSE_NAME
    unchecked = Check("onnx-fp32", True, note="not checked: torch is not installed")
    write_checks(folder, [unchecked])
    assert load_card(folder / "posegate.json").verification[0].note == unchecked.note
    for check in (Check("onnx-fp32", True, max_abs_diff=5e-7), unchecked):
        write_checks(folder, [check])
        (row,) = load_card(folder / "posegate.json").verification
        assert (row.max_abs_diff, row.note) == (5e-7, None)
    write_checks(folder, [Check("onnx-fp32", False, note="training.pt: damaged")])
    (row,) = load_card(folder / "posegate.json").verification
    assert (row.max_abs_diff, row.note) == (None, "training.pt: damaged")


def test_what_was_found_is_told_where_the_card_cannot_be_written(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    code, rows, complaint = run(models, folder, "--write")
    assert code == 2
    assert [row["form"] for row in rows] == ["onnx-fp32", "http"]
    assert "posegate.json cannot be written: Permission denied" in complaint


def test_form_of_other_joints_than_those_of_coco_is_refused(folder: Path) -> None:
    models = make_repository(
        folder, detector=False, pose_changes={"keypoints": list(COCO_KEYPOINTS[:16])}
    )
    add_form(models, "fp16", lambda heatmaps: heatmaps)
    code, _, complaint = run(models, folder)
    assert code == 2
    assert "error: COCO's AP needs COCO's 17 keypoints" in complaint


@pytest.mark.parametrize(("farthest", "ok"), [(0.02, True), (0.0201, False)])
def test_how_far_the_wire_may_move_a_joint(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, farthest: float, ok: bool
) -> None:
    monkeypatch.setattr(verify_module, "farthest_and_median", lambda *_: (farthest, 0.0))
    code, rows, _ = run(models, folder)
    assert [row["ok"] for row in rows if row["form"] == "http"] == [ok]
    assert code == (0 if ok else 1)


@pytest.mark.parametrize(("lost", "ok"), [(-0.02, True), (0.01, True), (0.0101, False)])
def test_how_much_ap_a_smaller_form_may_lose(
    monkeypatch: pytest.MonkeyPatch, lost: float, ok: bool
) -> None:
    base, found = [], [None]
    subject = Mock(ap=lambda answers: 0.5 if answers is base else 0.5 - lost)
    monkeypatch.setattr(verify_module, "farthest_and_median", lambda *_: (9.0, 1.0))
    check = verify_module._form_check("int8", subject, base, found[:0])
    assert (check.ok, check.ap_diff) == (ok, -lost)


@pytest.mark.parametrize(
    ("check", "is_plan", "ok"),
    [
        (Check("triton", True, max_pixel_diff=0.01), False, True),
        (Check("triton", True, max_pixel_diff=0.0101), False, False),
        (Check("triton", False, max_pixel_diff=0.0), False, False),
        (Check("triton", True, max_pixel_diff=5.0), True, True),
        (Check("triton", False, max_pixel_diff=5.0), True, False),
    ],
)
def test_a_triton_s_own_onnx_runtime_moves_no_joint_and_a_plan_may(
    check: Check, is_plan: bool, ok: bool
) -> None:
    assert verify_module._triton_check(check, is_plan=is_plan).ok is ok


@pytest.mark.parametrize(
    ("said", "status", "ok", "note"),
    [
        ('{"max_abs_diff": 1e-4}', 0, True, None),
        ('{"max_abs_diff": 1.01e-4}', 0, False, None),
        ("", 1, False, "the weights are of another network"),
    ],
)
def test_what_the_comparison_with_torch_says_is_judged(
    models: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int, ok: bool,
    note: str | None,
) -> None:  # fmt: skip
    (models / POSE_NAME / "training.pt").touch()
    compare = folder / "compare"
    compare.write_text(
        f"#!/bin/sh\necho '{said}'\necho 'first\nthe weights are of another network' >&2\n"
        f"exit {status}\n"
    )
    compare.chmod(0o755)
    model = load_catalog(models).models[POSE_NAME]
    monkeypatch.setattr(verify_module.sys, "executable", str(compare))
    check = asyncio.run(verify_module._against_torch(model))
    assert (check.ok, check.note) == (ok, note)


def test_a_card_that_cannot_be_put_in_place_stays_as_it_was(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    card = models / POSE_NAME / "posegate.json"
    before = card.read_text()
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(BadOption, match="cannot be written: Permission denied"):
        write_checks(card.parent, [Check("fp16", True, ap_diff=-0.001)])
    assert card.read_text() == before
