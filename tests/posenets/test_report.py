"""labelled photos -> report, worst cases and plot: `posenets evaluate`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat
from torch import nn
from typer.testing import CliRunner

from fakes import POSE_NAME, POSE_SIZE_WH, add_copy, encode, make_photo, make_repository
from labelled_folder import BOXES, label, seen_by_the_made_network, write
from posegate.skeleton import COCO_KEYPOINTS
from posenets.cli import app
from posenets.networks.table import Network
from posenets.training.mpii import MPII_KEYPOINTS


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks, so that counting them is quick; the first has the size of the made card's."""
    joined = Network(lambda joints, _: nn.Conv2d(3, joints, 1, bias=False), POSE_SIZE_WH, "A")
    both = {"trained": joined, "untrained": replace(joined, size_wh=(96, 128), convention="B")}
    monkeypatch.setattr("posenets.counting.NETWORKS", both)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_repository(tmp_path, detector=False, pose_changes={"parameters": 3 * 17})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos; the made network sees all of the first person, and the second's elsewhere."""
    (tmp_path / "images").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "images" / name).write_bytes(encode(make_photo(width=640, height=480)))
    far = label(2, 2, BOXES[1])
    far["keypoints"] = [v + 60 * (i % 3 < 2) for i, v in enumerate(far["keypoints"])]
    write(tmp_path, [label(1, 1, BOXES[0]), far])
    return tmp_path


def evaluate(models: Path, out: Path, *options: object) -> dict[str, Any]:
    arguments = ["evaluate", "--repository", models, "--out", out, "--decode", "argmax", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads((out / "report.json").read_text())
    return document


def test_report_holds_every_figure_and_draws_the_worst_first(
    models: Path, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path / "report"
    document = evaluate(models, out, "--data", folder)
    (network,) = document["networks"]
    assert network["name"] == POSE_NAME
    assert len(network["coco"]) == 10
    assert network["coco"]["ap"] == pytest.approx(0.5, abs=0.01)
    assert network["latency_ms"] > 0
    assert len(network["oks"]) == 17
    assert 0.5 <= network["oks"]["nose"] < 0.6
    assert document["conditions"]["boxes"] == "truth"
    text = (out / "report.md").read_text()
    assert "| made-pose | 64x48 |" in text
    assert "Boxes: truth; flip test: no; decoder: argmax." in text
    assert "| left_wrist |" in text
    picture = cv2.imread(str(out / document["worst"][POSE_NAME]))
    assert picture.shape == (320, 3 * 480, 3)
    plot = cv2.imread(str(out / "speed-accuracy-size.png"))
    assert plot.std() > 5
    for name in ("speed-accuracy-size.png", document["worst"][POSE_NAME]):
        assert f"]({name})" in text


def test_boxes_of_a_detector_come_from_a_results_file(
    models: Path, folder: Path, tmp_path: Path
) -> None:
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": BOXES[0], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [500, 300, 60, 90], "score": 0.2},
        {"image_id": 1, "category_id": 3, "bbox": BOXES[1], "score": 0.9},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    document = evaluate(
        models, tmp_path / "report", "--data", folder, "--boxes", tmp_path / "boxes.json"
    )
    assert document["conditions"]["boxes"] == "detector (boxes.json)"
    assert document["data"]["COCO form"].endswith("2 photos, 2 boxes")
    (network,) = document["networks"]
    assert network["coco"]["ap"] == pytest.approx(0.5, abs=0.01)
    assert network["oks"] is None
    assert document["worst"] == {}


def test_somebody_in_two_boxes_of_a_detector_counts_once(
    models: Path, folder: Path, tmp_path: Path
) -> None:
    """Each double would be a false alarm, surer than the person of the other photo."""
    x, y, width, height = BOXES[0]
    boxes = [(1, BOXES[0], 0.9)]
    boxes += [(1, [x - shift, y, width + 2 * shift, height], 0.89) for shift in (1, 2, 3, 4)]
    boxes += [(2, BOXES[1], 0.5)]
    rows = [
        {"image_id": photo, "category_id": 1, "bbox": box, "score": score}
        for photo, box, score in boxes
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    write(folder, [label(1, 1, BOXES[0]), label(2, 2, BOXES[1])])
    given = ("--data", folder, "--boxes", tmp_path / "boxes.json")
    (network,) = evaluate(models, tmp_path / "report", *given)["networks"]
    assert network["coco"]["ap"] == pytest.approx(1.0, abs=0.01)


def test_boxes_of_other_photos_are_refused(models: Path, folder: Path, tmp_path: Path) -> None:
    row = {"image_id": 99, "category_id": 1, "bbox": BOXES[0], "score": 0.9}
    (tmp_path / "boxes.json").write_text(json.dumps([row]))
    arguments = ["evaluate", "--repository", models, "--out", tmp_path / "report"]
    arguments += ["--data", folder, "--boxes", tmp_path / "boxes.json"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "boxes.json: knows none of the photos by its image_id" in result.output


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"output": {"names": ["nothing"]}}, "its card also names"),
        ({"codec": {"kind": "heatmap", "width": 24, "height": 32, "scale": [4, 4]}}, "promises"),
    ],
)
def test_a_network_that_is_not_what_its_card_says_is_not_measured(
    folder: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    wrong = make_repository(tmp_path / "wrong", detector=False, pose_changes=changes)
    arguments = ["evaluate", "--repository", wrong, "--data", folder, "--out", tmp_path / "report"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert named in result.output
    assert "Traceback" not in result.output


def test_networks_without_weights_are_named_with_their_size(
    models: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    document = evaluate(models, out, "--data", folder, "--worst", 0)
    (left,) = document["not_trained_yet"]
    assert (left["name"], left["params"], left["convention"]) == ("untrained", 51, "B")
    assert left["gmacs"] == pytest.approx(51 * 96 * 128 / 1e9)
    assert left["gflops"] == pytest.approx(51 * 96 * 128 / 2**30)
    rows = [line for line in (out / "report.md").read_text().splitlines() if "trained" in line]
    assert rows == ["| untrained | 128x96 | 0 | 0.0006 | - | - | not trained yet |"]


@pytest.fixture
def mpii(tmp_path: Path) -> list[object]:
    """Options for one person of MPII whom the made network sees, but for the left wrist."""
    box = [125.0, 100.0, 150.0, 200.0]
    seen = dict(zip(COCO_KEYPOINTS, seen_by_the_made_network(box), strict=True))
    joints = [[*(seen.get(name, np.zeros(2)) + 1)] for name in MPII_KEYPOINTS]
    joints[MPII_KEYPOINTS.index("left_wrist")][0] += 40
    labels = tmp_path / "valid.json"
    # MPII's person: 200 px times scale high, the middle 15 px times scale below the centre
    person = {"image": "1.png", "center": [201, 201 - 15], "scale": 1.0}
    person |= {"joints": np.array(joints).tolist(), "joints_vis": [1] * 16}
    labels.write_text(json.dumps([person]))
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "1.png").write_bytes(encode(make_photo(width=640, height=480)))
    heads = np.array([[0, 0], [60, 80]], float).reshape(2, 2, 1)
    savemat(tmp_path / "gt_valid.mat", {"headboxes_src": heads})
    return ["--mpii", labels, "--heads", tmp_path / "gt_valid.mat"]


def test_pckh_is_reported_for_the_joints_that_both_know(
    models: Path, mpii: list[object], tmp_path: Path
) -> None:
    document = evaluate(models, tmp_path / "report", *mpii)
    rows = {row["joint"]: row for row in document["networks"][0]["pckh"]}
    assert "pelvis" not in rows
    assert rows["left_knee"]["pckh@0.1"] == 1.0
    assert rows["left_wrist"]["pckh@0.5"] == 0.0
    assert rows["mean"]["labelled"] == 12
    assert document["notes"] == []


def test_a_joint_that_is_never_labelled_has_no_figure(
    models: Path, mpii: list[object], tmp_path: Path
) -> None:
    labels = tmp_path / "valid.json"
    (person,) = json.loads(labels.read_text())
    person["joints_vis"][MPII_KEYPOINTS.index("left_ankle")] = 0
    labels.write_text(json.dumps([person]))
    document = evaluate(models, tmp_path / "report", *mpii)
    rows = {row["joint"]: row for row in document["networks"][0]["pckh"]}
    assert rows["left_ankle"]["pckh@0.5"] is None
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| left_ankle | 0 | - | - |" in text.splitlines()


def test_a_detectors_boxes_are_said_to_be_for_coco_alone(
    models: Path, folder: Path, mpii: list[object], tmp_path: Path
) -> None:
    (tmp_path / "boxes.json").write_text("[]")
    given = ["--data", folder, "--boxes", tmp_path / "boxes.json", *mpii]
    boxes = evaluate(models, tmp_path / "report", *given)["conditions"]["boxes"]
    assert boxes == "detector (boxes.json) in COCO form, truth in MPII"


def test_photos_of_mpiis_own_file_are_said_to_be_training_images(
    models: Path, tmp_path: Path, mpii: list[object]
) -> None:
    point = {"x": 200.0, "y": 180.0, "id": 12}
    person = {"x1": 1, "y1": 1, "x2": 61, "y2": 81, "scale": 1.0, "objpos": {"x": 201, "y": 186}}
    person |= {"annopoints": {"point": np.array([point, point], object)}}
    photo = {"image": {"name": "1.png"}, "annorect": np.array([person], object)}
    release = {"annolist": np.array([photo], object), "img_train": [1]}
    savemat(tmp_path / "mpii.mat", {"RELEASE": release})
    document = evaluate(models, tmp_path / "report", "--mpii", tmp_path / "mpii.mat")
    (note,) = document["notes"]
    assert "photos of mpii.mat are MPII's training images" in note
    assert note in (tmp_path / "report" / "report.md").read_text().splitlines()


def test_a_network_of_other_joints_is_left_out_and_the_others_are_measured(
    models: Path, folder: Path, mpii: list[object], tmp_path: Path
) -> None:
    add_copy(models, "fingers")
    card = models / "fingers" / "posegate.json"
    names = [f"finger_{joint}" for joint in range(17)]
    card.write_text(json.dumps(json.loads(card.read_text()) | {"keypoints": names}))
    given = ["--data", folder, "--worst", 0, *mpii]
    document = evaluate(models, tmp_path / "report", *given)
    fingers, made = document["networks"]
    assert (fingers["name"], fingers["coco"], fingers["pckh"]) == ("fingers", None, None)
    assert made["coco"]["ap"] > 0
    assert made["pckh"] is not None
    assert document["notes"] == [
        "fingers: its card's keypoints are not COCO's 17, so it is not measured with --data.",
        "fingers: its card's keypoints are none of MPII's, so it is not measured with --mpii.",
    ]
    arguments = ["evaluate", "--repository", models, "--out", tmp_path / "no", "--model", "fingers"]
    for option, place in (("--data", folder), mpii[:2]):
        told = [str(argument) for argument in (*arguments, option, place)]
        result = CliRunner().invoke(app, told)
        assert result.exit_code == 1
        assert "error: fingers: its card's keypoints are no" in result.stderr
        assert f"; leave {option} out" in result.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "give --data, --mpii or both"),
        (["--data", "nowhere"], "person_keypoints.json cannot be read"),
        (["--data", "{folder}", "--boxes", "{folder}/person_keypoints.json"], "not a COCO results"),
        (["--data", "{folder}", "--model", "nosuch"], "no network 'nosuch'"),
        (["--mpii", "{folder}/person_keypoints.json"], "not an MPII label file"),
        (["--mpii", "valid.json", "--boxes", "nowhere.json"], "give --data or leave --boxes out"),
        (["--data", "{folder}", "--heads", "nowhere.mat"], "give --mpii or leave --heads out"),
    ],
)
def test_what_cannot_be_evaluated_is_named(
    models: Path, folder: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    told = [option.replace("{folder}", str(folder)) for option in options]
    arguments = ["evaluate", "--repository", str(models), "--out", str(tmp_path / "no"), *told]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert named in result.stderr


def test_nan_in_a_label_names_file_and_field(models: Path, folder: Path, tmp_path: Path) -> None:
    labels = folder / "person_keypoints.json"
    document = json.loads(labels.read_text())
    document["annotations"][0]["keypoints"][4] = float("nan")
    labels.write_text(json.dumps(document))
    arguments = ["evaluate", "--repository", models, "--out", tmp_path / "no", "--data", folder]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "image 1: keypoints holds NaN" in result.stderr
