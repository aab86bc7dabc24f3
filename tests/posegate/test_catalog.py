"""model_repository -> catalogue: posegate.catalog and posegate.card."""

import json
import shutil
from pathlib import Path

import onnx
import pytest

from fakes import DETECTOR_NAME, POSE_NAME, make_repository, pose_card
from posegate.card import ModelCard
from posegate.catalog import load_card, load_catalog, sha256_of
from posegate.errors import BadCard, UnknownModel


def rewrite(repository: Path, folder: str, /, **changes: object) -> Path:
    """Change fields of a card in place; a field set to None is taken out."""
    path = repository / folder / "posegate.json"
    card = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))
    return path


def copy_pose(repository: Path, name: str, **changes: object) -> None:
    """A second pose network: the same file under another name."""
    source, target = repository / POSE_NAME, repository / name
    (target / "1").mkdir(parents=True)
    (target / "1" / "model.onnx").write_bytes((source / "1" / "model.onnx").read_bytes())
    (target / "posegate.json").write_text((source / "posegate.json").read_text())
    rewrite(repository, name, name=name, **changes)


def test_catalog_holds_every_network_with_its_card(repository: Path) -> None:
    catalog = load_catalog(repository)
    assert list(catalog.models) == [DETECTOR_NAME, POSE_NAME]
    model = catalog.get(POSE_NAME, "pose")
    assert model.card.input_shape == (3, 64, 48)
    assert sha256_of(model.onnx_path) == model.card.sha256


def test_the_only_network_of_a_task_is_its_default(repository: Path) -> None:
    catalog = load_catalog(repository)
    assert catalog.get(None, "pose").name == POSE_NAME
    assert catalog.get(None, "detect").name == DETECTOR_NAME


@pytest.mark.parametrize(
    ("changes", "default"),
    [
        ({"default": True, "accuracy": []}, "other"),  # the card says so
        ({"accuracy": [{"data": "made", "ap": 0.6}]}, "other"),  # better AP
        ({"accuracy": [{"data": "made", "ap": 0.4}]}, POSE_NAME),  # worse AP
        ({}, POSE_NAME),  # a tie goes to the first name
    ],
)
def test_default_is_the_marked_then_the_best_then_the_first(
    tmp_path: Path, changes: dict[str, object], default: str
) -> None:
    repository = make_repository(tmp_path)
    copy_pose(repository, "other", **changes)
    assert load_catalog(repository).get(None, "pose").name == default


def test_settings_override_the_default_of_the_cards(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    copy_pose(repository, "other", default=True)
    assert load_catalog(repository, model=POSE_NAME).get(None, "pose").name == POSE_NAME
    with pytest.raises(UnknownModel, match="known: made-pose, other"):
        load_catalog(repository, model="nothing")


def test_an_unknown_name_is_refused_with_the_known_ones(repository: Path) -> None:
    catalog = load_catalog(repository)
    with pytest.raises(UnknownModel, match=f"no network 'x' for task 'pose'; known: {POSE_NAME}"):
        catalog.get("x", "pose")
    with pytest.raises(UnknownModel):
        catalog.get(DETECTOR_NAME, "pose")


def test_a_task_without_any_network_is_refused_when_asked_for(tmp_path: Path) -> None:
    catalog = load_catalog(make_repository(tmp_path, detector=False))
    with pytest.raises(UnknownModel, match="known: none"):
        catalog.get(None, "detect")


def test_a_changed_network_file_is_refused(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    path = repository / POSE_NAME / "1" / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BadCard, match="restore the file or correct the card"):
        load_catalog(repository)


def test_weights_in_a_file_beside_the_network_are_refused(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    path = repository / POSE_NAME / "1" / "model.onnx"
    network = onnx.load(path)
    onnx.save(network, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert path.with_name("weights").stat().st_size > 0
    rewrite(repository, POSE_NAME, sha256=sha256_of(path))
    with pytest.raises(BadCard, match=r"keeps weights in a file beside it.*external_data=False"):
        load_catalog(repository)
    onnx.save(onnx.load(path), path)
    rewrite(repository, POSE_NAME, sha256=sha256_of(path))
    assert POSE_NAME in load_catalog(repository).models


def test_a_card_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    card = make_repository(tmp_path) / POSE_NAME / "posegate.json"
    card.write_text(card.read_text(), encoding="utf-8-sig")
    assert load_card(card).name == POSE_NAME


def test_the_form_that_decodes_in_the_graph_may_be_elsewhere_but_not_half_here(
    tmp_path: Path,
) -> None:
    repository = make_repository(tmp_path)
    rewrite(repository, POSE_NAME, decoded={"sha256": "0" * 64})
    model = load_catalog(repository).get(POSE_NAME, "pose")
    assert model.decoded is not None
    assert model.forms == (model,)
    model.decoded.folder.mkdir()
    with pytest.raises(BadCard, match=f"has no network file .*{POSE_NAME}-decoded"):
        load_catalog(repository)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "else"}, "is not its folder's name"),
        ({"sha256": "short"}, "sha256: String should match"),
        ({"codec": None}, "a pose card needs codec"),
        ({"keypoints": []}, "a pose card needs keypoints"),
        ({"keypoints": ["nose", "nose"]}, "must not repeat"),
        ({"output": {"names": ["a", "b"]}}, "must hold 1 name"),
        ({"surprise": 1}, "surprise: there is no such field"),
        ({"score": None}, "score: Field required"),
        ({"codec": {"kind": "wheel"}}, "codec"),
        ({"crop": {"padding": 0}}, "crop.padding"),
    ],
)
def test_a_bad_card_is_refused_with_its_field(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    repository = make_repository(tmp_path)
    rewrite(repository, POSE_NAME, **changes)
    with pytest.raises(BadCard, match=words):
        load_catalog(repository)


def test_a_card_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posegate.json"
    path.write_text("{")
    with pytest.raises(BadCard, match="Invalid JSON"):
        load_card(path)
    with pytest.raises(BadCard, match="No such file"):
        load_card(tmp_path / "missing.json")


def test_missing_repository_and_missing_network_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadCard, match="no model repository at"):
        load_catalog(tmp_path / "nowhere")
    with pytest.raises(BadCard, match="holds no"):
        load_catalog(tmp_path)
    repository = make_repository(tmp_path)
    (repository / POSE_NAME / "1" / "model.onnx").unlink()
    with pytest.raises(BadCard, match="has no network file"):
        load_catalog(repository)


@pytest.mark.parametrize("place", ["1/model.onnx", "net.onnx"])
def test_a_network_without_a_card_is_told_what_it_lacks(tmp_path: Path, place: str) -> None:
    repository = make_repository(tmp_path)
    file = repository / "bare" / place
    file.parent.mkdir(parents=True)
    file.write_bytes((repository / POSE_NAME / "1" / "model.onnx").read_bytes())
    (repository / "empty").mkdir()
    lacks = f"'bare' has a file bare/{place} and no card bare/posegate.json.*posenets export"
    catalog = load_catalog(repository)
    with pytest.raises(UnknownModel, match=lacks):
        catalog.get("bare", "pose")
    with pytest.raises(UnknownModel, match=lacks):
        load_catalog(repository, model="bare")
    with pytest.raises(UnknownModel, match="no network 'empty'"):
        catalog.get("empty", "pose")
    shutil.rmtree(repository / POSE_NAME)
    with pytest.raises(UnknownModel, match=f"no pose network; network {lacks}"):
        load_catalog(repository).without_detector()
    (repository / DETECTOR_NAME / "posegate.json").unlink()
    with pytest.raises(BadCard, match=r"holds no <name>/posegate\.json; network 'bare' has a file"):
        load_catalog(repository)


def test_the_form_that_decodes_in_the_graph_needs_no_card(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    decoded = repository / f"{POSE_NAME}-decoded" / "1" / "model.onnx"
    decoded.parent.mkdir(parents=True)
    decoded.write_bytes((repository / POSE_NAME / "1" / "model.onnx").read_bytes())
    rewrite(repository, POSE_NAME, decoded={"sha256": sha256_of(decoded)})
    with pytest.raises(UnknownModel, match=f"no network '{POSE_NAME}-decoded'"):
        load_catalog(repository).get(f"{POSE_NAME}-decoded", "pose")


def test_a_simcc_card_needs_two_outputs() -> None:
    card = {**pose_card(), "sha256": "0" * 64, "codec": {"kind": "simcc"}}
    with pytest.raises(ValueError, match="must hold 2 name"):
        ModelCard.model_validate(card)
    card["output"] = {"names": ["simcc_x", "simcc_y"]}
    assert ModelCard.model_validate(card).codec.split == 2.0
