"""Joints of one's own: from a label file's category through training and export to the service."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from deploy.tiny_networks import TINY
from fakes import make_repository
from made_labels import PHOTOS, made_labels, made_photo
from posegate.catalog import load_card
from posegate.cli import app as posegate_app
from posegate.errors import BadOption
from posegate.evaluate import KEYPOINT_FIGURES, coco_scorer, load_data
from posegate.skeleton import COCO_KEYPOINTS
from posenets.cli import app
from posenets.export.checkpoint import served_network
from posenets.networks import JOINT_WEIGHTS, NETWORKS
from posenets.training.cache import build_cache
from posenets.training.checkpoint import load_checkpoint, save_checkpoint
from posenets.training.mpii import MPII_KEYPOINTS
from posenets.training.people import joints_asked_for, read_people
from posenets.training.recipe import read_recipe
from posenets.training.records import BadData
from posenets.training.start import pose_trainer
from posenets.training.start_weights import _joints_lent, joints_in

CPU = torch.device("cpu")
NAMES = ("wing_tip", "left_claw", "right_claw", "tail")
SHORT = """
task = "pose"
network = "posefpn-small"
examples = 8
phases = [{ width = 64, height = 64, share = 1.0, batch = 4 }]
distil = 0.0
"""


def birds(**category: Any) -> dict[str, Any]:
    """The made photos with four joints of a bird in each, beside a person without any."""
    images, annotations = [], []
    for index in range(PHOTOS):
        triples = made_photo(index)[1]
        images.append({"id": index, "file_name": f"{index}.png", "width": 200, "height": 240})
        box = {"bbox": [40.0, 30.0, 120.0, 150.0], "area": 18000.0, "image_id": index}
        joints = {"keypoints": triples[: 3 * len(NAMES)], "num_keypoints": len(NAMES)}
        annotations.append({"id": 2 * index + 1, "category_id": 3, "iscrowd": 0} | box | joints)
        annotations.append({"id": 2 * index + 2, "category_id": 1, "iscrowd": 0} | box)
    named = {"id": 3, "name": "bird", "keypoints": list(NAMES)} | category
    categories = [{"id": 1, "name": "person"}, named]
    return {"images": images, "annotations": annotations, "categories": categories}


def birds_of_mpii() -> dict[str, Any]:
    """Birds with MPII's joints, all in one place."""
    labels = birds(keypoints=list(MPII_KEYPOINTS))
    for annotation in labels["annotations"]:
        if "keypoints" in annotation:
            annotation |= {"keypoints": [70.0, 80.0, 2] * len(MPII_KEYPOINTS), "num_keypoints": 16}
    return labels


@pytest.fixture
def folder(coco_folder: Path, tmp_path: Path) -> Path:
    folder = coco_folder.parent
    (folder / "person_keypoints.json").write_text(json.dumps(birds()))
    (tmp_path / "short.toml").write_text(SHORT)
    return folder


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_own_joints_are_cut_out_learned_exported_and_measured(folder: Path, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    said = run("cache", folder, tmp_path / "cache", "--joints", "own")
    assert f"{PHOTOS} people in" in said
    assert "4 joints; a mirrored picture swaps left_claw with right_claw" in said
    out = tmp_path / "bird.pt"
    arguments = ("--cache", tmp_path / "cache", "--out", out, "--evaluate", folder)
    assert "evaluated: ap 0." in run("train", tmp_path / "short.toml", *arguments)
    assert load_checkpoint(out)["joints"] == list(NAMES)
    forms = ("--forms", "fp32,int8", "--calibrate", folder)
    run("export", out, "--repository", repository, "--name", "bird", *forms)
    for name in ("bird", "bird-int8"):
        assert load_card(repository / name / "posegate.json").keypoints == NAMES
    told = ["evaluate", "--data", str(folder), "--model", "bird", "--json"]
    result = CliRunner().invoke(posegate_app, [*told, "--model-repository", str(repository)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["model"], report["people"]) == ("bird", PHOTOS)
    assert 0 <= report["keypoints"]["ap"] <= 1


def test_a_stream_learns_them_and_a_start_lends_all_but_the_last_layer(
    folder: Path, tmp_path: Path
) -> None:
    recipe, out, start = (tmp_path / name for name in ("short.toml", "bird.pt", "start.pt"))
    lent = NETWORKS["posefpn-small"].build().state_dict()
    save_checkpoint(start, {"ema": lent, "recipe": read_recipe(recipe).model_dump_json()})
    streamed = ("train", recipe, "--labels", folder, "--out", out)
    run(*streamed, "--joints", "own", "--start", start, "--seconds", 0)
    state = load_checkpoint(out)
    assert state["joints"] == list(NAMES)
    assert state["network"]["last.weight"].shape[0] == len(NAMES)
    kernel = "backbone.0.c.weight"
    torch.testing.assert_close(state["network"][kernel], lent[kernel], rtol=0, atol=0.01)
    save_checkpoint(out, state | {"joints": ["beak", *NAMES[1:]]})
    said = run(*streamed, "--joints", "own", code=1)
    assert "bird.pt: holds a run of other joints than these; give another --out" in said
    for names in ("beak", [], ["beak", 3], ["beak", "beak"]):
        save_checkpoint(out, state | {"joints": names})
        said = run("export", out, "--repository", tmp_path / "made", code=1)
        assert "bird.pt: field 'joints': no list of names" in said
    assert not (tmp_path / "made").exists()
    del lent["mix.2.2.c.weight"]
    save_checkpoint(start, {"ema": lent, "recipe": read_recipe(recipe).model_dump_json()})
    out.unlink()
    said = run(*streamed, "--joints", "own", "--start", start, code=1)
    assert "start.pt: does not fit PoseFPN: mix.2.2.c.weight is missing" in said


@pytest.mark.parametrize(
    ("category", "words"),
    [
        ({"keypoints": []}, "no category names its keypoints"),
        ({"keypoints": "wing"}, "categories[1]: keypoints is 'wing'; it must be a list"),
        ({"keypoints": ["wing", 2]}, "categories[1]: keypoints is ['wing', 2]; it must be texts"),
        ({"keypoints": ["wing", "wing"]}, "keypoints is ['wing', 'wing']; a name stands twice"),
        ({"keypoints": ["beak"]}, "annotation 1 of image 0: keypoints is [50, 40, 1,"),
        ({"id": "3"}, "categories[1]: id is '3'; it must be an integer"),
    ],
)
def test_categories_that_name_no_joints_to_learn_are_refused(
    folder: Path, tmp_path: Path, category: dict[str, object], words: str
) -> None:
    path = folder / "person_keypoints.json"
    path.write_text(json.dumps(birds(**category)))
    said = run("cache", folder, tmp_path / "cache", "--joints", "own", code=1)
    assert f"{path}: " in said
    assert words in said
    assert not (tmp_path / "cache").exists()


def test_mpii_s_joints_in_a_coco_file_are_read_as_they_are_named(
    folder: Path, tmp_path: Path
) -> None:
    path = folder / "person_keypoints.json"
    path.write_text(json.dumps(birds_of_mpii()))
    assert joints_asked_for("own", path) == MPII_KEYPOINTS
    for image in read_people(path, MPII_KEYPOINTS):
        assert image.keypoints.tolist() == [[[70.0, 80.0, 2.0]] * 16]


def test_mpii_s_joints_in_a_coco_file_are_learned_calibrated_and_measured(
    folder: Path, tmp_path: Path
) -> None:
    repository, out = make_repository(tmp_path), tmp_path / "mpii.pt"
    (folder / "person_keypoints.json").write_text(json.dumps(birds_of_mpii()))
    run("cache", folder, tmp_path / "cache", "--joints", "own")
    arguments = ("--cache", tmp_path / "cache", "--out", out, "--evaluate", folder)
    assert "evaluated: ap 0." in run("train", tmp_path / "short.toml", *arguments)
    forms = ("--forms", "fp32,int8", "--calibrate", folder)
    run("export", out, "--repository", repository, "--name", "sixteen", *forms)
    for name in ("sixteen", "sixteen-int8"):
        assert load_card(repository / name / "posegate.json").keypoints == MPII_KEYPOINTS


@pytest.mark.parametrize("network", ["le-hrnet", "goatpose-bl"])
def test_networks_learn_mpii_s_joints_where_the_cache_has_them(
    folder: Path, tmp_path: Path, network: str
) -> None:
    (folder / "person_keypoints.json").write_text(json.dumps(birds_of_mpii()))
    cache = build_cache(folder, tmp_path / "cache", joint_names=MPII_KEYPOINTS).folder
    recipe = read_recipe(tmp_path / "short.toml").model_copy(update={"network": network})
    out = tmp_path / "run.pt"
    trainer = pose_trainer(recipe, [cache], start=None, device=CPU, checkpoint=out)
    assert trainer.network.last.weight.shape[0] == len(MPII_KEYPOINTS)
    trainer.save()
    state = load_checkpoint(out)
    assert joints_in(state, out) == MPII_KEYPOINTS
    assert served_network(state, out)(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 16, 16)


@pytest.mark.parametrize(
    ("told", "lent"),
    [
        ({"joints": list(COCO_KEYPOINTS)}, True),
        ({"joints": list(reversed(COCO_KEYPOINTS))}, False),
        ({"joints": [f"joint {number}" for number in range(17)]}, False),
        ({"joints": None}, True),  # the network's of the table
    ],
)
def test_a_start_lends_its_last_layer_to_the_same_joints_alone(
    folder: Path, tmp_path: Path, told: dict[str, object], lent: bool
) -> None:
    cache_of_people(folder, tmp_path)
    recipe, start = read_recipe(tmp_path / "short.toml"), tmp_path / "start.pt"
    network = NETWORKS["posefpn-small"].build()
    with torch.no_grad():
        for value in (network.last.weight, network.last.bias):
            value.fill_(7)
    state = {"ema": network.state_dict(), "recipe": recipe.model_dump_json()}
    save_checkpoint(start, state | told)
    out = tmp_path / "run.pt"
    trainer = pose_trainer(recipe, [tmp_path / "people"], start=start, device=CPU, checkpoint=out)
    for name, value in trainer.network.state_dict().items():
        if name in JOINT_WEIGHTS:
            assert bool((value == 7).all()) is lent, name
        else:
            assert torch.equal(value, state["ema"][name]), name


@pytest.mark.parametrize(
    ("number", "joints"), [(17, COCO_KEYPOINTS), (16, MPII_KEYPOINTS), (4, None)]
)
def test_a_published_hrnet_has_the_joints_of_its_number(
    number: int, joints: tuple[str, ...] | None
) -> None:
    published = {"state_dict": {"backbone.transition1.1.0.0.weight": torch.zeros(1)}}
    assert _joints_lent(published, Path("hrnet.pth"), number) == joints
    ours = {"state_dict": {"last.weight": torch.zeros(1)}}
    assert _joints_lent(ours, Path("other.pth"), number) is None


def test_labels_that_come_late_in_a_stream_are_looked_at_first(
    folder: Path, tmp_path: Path
) -> None:
    labels = ("--labels", folder / "person_keypoints.json", "--labels", tmp_path / "nowhere.json")
    out = ("--joints", "own", "--out", tmp_path / "run.pt")
    assert "nowhere.json cannot be read" in run(
        "train", tmp_path / "short.toml", *labels, *out, code=1
    )
    assert not (tmp_path / "run.pt").exists()


def test_two_kinds_of_joints_in_one_file_are_refused(folder: Path, tmp_path: Path) -> None:
    labels = birds()
    labels["categories"] += [
        {"id": 4, "name": "crow", "keypoints": list(NAMES)},
        {"id": 5, "name": "fish", "keypoints": ["fin", "tail"]},
    ]
    (folder / "person_keypoints.json").write_text(json.dumps(labels))
    said = run("cache", folder, tmp_path / "cache", "--joints", "own", code=1)
    assert "different keypoints, 2 keypoints fin to tail and 4 keypoints wing_tip to tail" in said
    del labels["categories"][-1]
    labels["annotations"][0]["category_id"] = 4  # as AP-10K, whose animals all have the same
    (folder / "person_keypoints.json").write_text(json.dumps(labels))
    assert f"{PHOTOS} people" in run("cache", folder, tmp_path / "cache", "--joints", "own")


def test_joints_are_asked_for_where_they_can_be(folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "mpii.json"
    labels.write_text("[]")
    said = run("cache", labels, tmp_path / "cache", "--joints", "own", code=1)
    assert "mpii.json: only files of COCO's form name joints of their own" in said
    run("cache", folder, tmp_path / "cache", "--joints", "own")
    cached = ("train", tmp_path / "short.toml", "--cache", tmp_path / "cache")
    out = ("--out", tmp_path / "run.pt")
    said = run(*cached, *out, "--joints", "own", code=1)
    assert "--joints are those of --labels; a cache tells its own" in said
    said = run(*cached, *out, "--cache", cache_of_people(folder, tmp_path), code=1)
    assert f"its 17 joints are not the 4 of {tmp_path / 'cache'}" in said
    said = run("train", "person-detector", "--photos", folder, *out, "--joints", "own", code=1)
    assert "--joints: a person detector draws none" in said
    photos = ("--labels", folder, "--joints", "coco", "--network", "litedeconv-mpii")
    said = run("train", tmp_path / "short.toml", *photos, *out, code=1)
    assert "--joints: its 17 joints are not the 16 of litedeconv-mpii" in said


def cache_of_people(folder: Path, tmp_path: Path) -> Path:
    labels = folder / "people.json"
    labels.write_text(json.dumps(made_labels()))
    run("cache", labels, tmp_path / "people")
    return tmp_path / "people"


def test_joints_that_coco_does_not_know_count_by_one_constant(folder: Path) -> None:
    data = load_data(folder, keypoints=NAMES)
    truth = [label for label in data.annotations["annotations"] if label["num_keypoints"]]
    sigma, area = 0.08, 18000.0
    aside = (2 * area * (2 * sigma) ** 2 * -math.log(0.72)) ** 0.5  # OKS 0.72: five of ten limits
    results = [
        {
            "image_id": label["image_id"],
            "category_id": 1,
            "keypoints": [v + aside * (i % 3 == 0) for i, v in enumerate(label["keypoints"])],
            "score": 1.0,
        }
        for label in truth
    ]
    figures = coco_scorer(data)("keypoints", results, KEYPOINT_FIGURES)
    assert (figures["ap50"], figures["ap75"], figures["ap"]) == (1.0, 0.0, 0.5)


def test_labels_of_other_joints_than_the_networks_are_refused(folder: Path) -> None:
    with pytest.raises(BadOption, match=r"no category names the 2 keypoints fin to tail in their"):
        load_data(folder, keypoints=("fin", "tail"))
    with pytest.raises(BadData, match="named are 4 keypoints wing_tip to tail"):
        next(read_people(folder, ("fin", "tail")))


@pytest.mark.parametrize("name", ["posefpn-small", "litedeconv", "simple-shufflenetv2", *TINY])
def test_only_the_last_layer_goes_by_the_number_of_joints(name: str) -> None:
    build = TINY.get(name) or NETWORKS[name].constructor
    few, many = (build(joints, (192, 256)).state_dict() for joints in (4, 5))
    assert few.keys() == many.keys()
    changed = {name for name, value in few.items() if value.shape != many[name].shape}
    assert changed == set(JOINT_WEIGHTS)
