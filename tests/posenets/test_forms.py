"""The smaller forms of an exported network: what is in their files, and that they are served."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, numpy_helper
from typer.testing import CliRunner

from fakes import encode, make_photo
from made_labels import PHOTOS, encoded, made_labels
from made_norms import randomise_norms
from posegate.build import running_pipeline
from posegate.catalog import CARD_NAME, Model, load_card, load_catalog, sha256_of
from posegate.options import EstimateOptions
from posegate.settings import Settings
from posegate.verify import FORMS as VERIFIED_FORMS
from posenets.cli import app
from posenets.counting import count_parameters
from posenets.export.calibration import calibration_crops
from posenets.export.checkpoint import CheckpointExport, export_checkpoint
from posenets.export.compare import compare_with_torch
from posenets.export.forms import FORMS, write_form
from posenets.export.in_graph import write_decoded
from posenets.export.onnx import ExportDiffers
from posenets.networks import build_network
from posenets.networks.person_detector import PersonDetector
from posenets.training.cache import build_cache
from posenets.training.recipe import DetectionRecipe, Phase, PoseRecipe
from posenets.training.records import BadData

ROOT = Path(__file__).parents[2]
NAME = "small"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, a crop cache, and a COCO-form folder."""
    folder = tmp_path_factory.mktemp("forms")
    (folder / "coco" / "images").mkdir(parents=True)
    for index in range(PHOTOS):
        (folder / "coco" / "images" / f"{index}.png").write_bytes(encoded(index))
    labels = folder / "coco" / "person_keypoints.json"
    labels.write_text(json.dumps(made_labels()))
    build_cache(labels, folder / "cache")
    torch.manual_seed(0)
    network = build_network("hrnet-w16-small")
    torch.nn.init.normal_(network.last.weight, std=0.1)
    randomise_norms(network)
    recipe = PoseRecipe(
        task="pose",
        network="hrnet-w16-small",
        examples=1,
        phases=(Phase(width=64, height=64, share=1),),
    )
    torch.save({"ema": network.state_dict(), "recipe": recipe.model_dump_json()}, folder / "run.pt")
    (folder / "about.json").write_text('{"description": "made"}')
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    """What the command writes with all forms."""
    return exported(folder, "models")


def exported(folder: Path, repository: str, *options: str) -> Path:
    """The repository with all forms that the command writes with these further options."""
    arguments = ["export", folder / "run.pt", "--repository", folder / repository, "--name", NAME]
    arguments += ["--about", folder / "about.json", "--forms", ",".join(FORMS)]
    arguments += ["--calibrate", folder / "cache", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return folder / repository


def file_of(models: Path, form: str) -> Path:
    return models / (NAME if form == "fp32" else f"{NAME}-{form}") / "1" / "model.onnx"


def heatmaps(path: Path, crops: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {"input": crops}
    )[0]


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("form", "share"),
    # largest difference to fp32 as a share of the range
    [("fp16", 5e-3), ("fp16-storage", 2e-3), ("int8", 0.15), ("int8-trt", 0.15)],
)
def test_form_draws_the_same_heatmaps_nearly(
    models: Path, folder: Path, form: str, share: float
) -> None:
    card = load_catalog(models).get(NAME, "pose").card
    crops = calibration_crops(folder / "coco", card, count=4)
    assert crops.shape == (4, 3, 64, 64)
    expected = heatmaps(file_of(models, "fp32"), crops)
    found = heatmaps(file_of(models, form), crops)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < share * np.ptp(expected)


def test_halves_take_half_the_room(models: Path) -> None:
    size = {form: file_of(models, form).stat().st_size for form in FORMS}
    assert size["fp16"] < 0.6 * size["fp32"]
    assert size["fp16-storage"] < 0.6 * size["fp32"]
    assert size["int8"] < 0.45 * size["fp32"]


def test_kernels_kept_as_halves_are_those_of_the_network(folder: Path, models: Path) -> None:
    halves = exported(folder, "halves", "--halves")
    kept, whole = file_of(halves, "fp32"), file_of(models, "fp32")
    assert kept.stat().st_size < 0.6 * whole.stat().st_size
    assert compare_with_torch(halves / NAME) < 1e-6  # 7e-6 where only the file is rounded
    crops = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(heatmaps(kept, crops), heatmaps(whole, crops), atol=2e-3)
    for form in FORMS[1:]:  # made from the halves they are what they are made from floats
        a, b = (heatmaps(file_of(of, form), crops) for of in (halves, models))
        np.testing.assert_allclose(a, b, atol=5e-2 if "int8" in form else 5e-3)


def test_new_weights_stay_the_default_and_old_forms_are_told(
    folder: Path, models: Path, tmp_path: Path
) -> None:
    for name in (NAME, f"{NAME}-int8"):
        shutil.copytree(models / name, tmp_path / name)
    card = tmp_path / NAME / CARD_NAME
    card.write_text(json.dumps(json.loads(card.read_text()) | {"default": True}))
    state = torch.load(folder / "run.pt")
    state["ema"]["last.weight"] += 0.1
    torch.save(state, tmp_path / "next.pt")
    arguments = ["export", tmp_path / "next.pt", "--repository", tmp_path, "--name", NAME]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert load_card(card).default
    assert load_card(card).sha256 != load_card(models / NAME / CARD_NAME).sha256
    said = " ".join(result.output.split())
    assert f"{NAME}-int8 is still of the former weights" in said
    assert said.count("former weights") == 1


def test_weights_kept_as_halves_stay_so_when_they_are_exported_again(folder: Path) -> None:
    first = CheckpointExport(folder / "run.pt", folder / "first", NAME, halves=True)
    export_checkpoint(first)
    again = CheckpointExport(folder / "first" / NAME / "training.pt", folder / "again", NAME)
    export_checkpoint(again)
    assert sha256_of(file_of(folder / "again", "fp32")) == sha256_of(
        file_of(folder / "first", "fp32")
    )


def test_a_detector_of_halves_has_the_parameters_of_the_trained_one(tmp_path: Path) -> None:
    detector = PersonDetector()
    recipe = DetectionRecipe(
        task="detect",
        network="person-detector",
        examples=1,
        phases=(Phase(width=64, height=64, share=1),),
    )
    state = {"ema": detector.state_dict(), "recipe": recipe.model_dump_json()}
    torch.save(state, tmp_path / "run.pt")
    export_checkpoint(CheckpointExport(tmp_path / "run.pt", tmp_path, NAME, halves=True))
    card = load_card(tmp_path / NAME / CARD_NAME)
    assert card.parameters == count_parameters(detector)
    arguments = [
        "export",
        tmp_path / "run.pt",
        "--repository",
        tmp_path / "none",
        "--forms",
        "fp16",
    ]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert (result.exit_code, "only pose networks have other" in result.stderr) == (1, True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("form", "activations", "symmetric"), [("int8", np.uint8, False), ("int8-trt", np.int8, True)]
)
def test_eight_bits_are_those_that_the_runtime_likes(
    models: Path, form: str, activations: type, symmetric: bool
) -> None:
    graph = onnx.load(file_of(models, form)).graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    quantised = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    zeros = [constants[node.input[2]] for node in quantised]
    assert {zero.dtype for zero in zeros} == {np.dtype(activations)}
    assert not symmetric or all((zero == 0).all() for zero in zeros)
    undone = {n.input[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    weights = [constants[name] for name in undone if name in constants]
    biases = [weight for weight in weights if weight.dtype == np.int32]
    kernels = [name for name in undone if name in constants and constants[name].dtype == np.int8]
    assert bool(biases) != symmetric
    assert len(kernels) > 20
    assert all(constants[undone[k].input[1]].size == len(constants[k]) for k in kernels), (
        "weights have a scale per channel"
    )
    (last,) = [node for node in graph.node if "heatmaps" in node.output]
    first = next(node for node in graph.node if node.op_type == "Conv")
    assert last.op_type == "Conv"
    assert last.input[1] in constants, "the layer that draws the heatmaps stays in float"
    assert first.input[1] in constants, "the layer that sees the picture stays in float"


def test_what_is_named_stays_in_float(folder: Path, models: Path, tmp_path: Path) -> None:
    model = copy_of(models, tmp_path)
    crops = calibration_crops(folder / "coco", model.card, count=4)
    path = write_form(model, "int8", crops, in_float=("stage2", "stage1"))
    graph = onnx.load(path).graph
    constants = {weight.name for weight in graph.initializer}
    in_float = {n.name: n.input[1] in constants for n in graph.node if n.op_type == "Conv"}
    named = {name for name in in_float if name.startswith(("/stage2/", "/stage1/"))}
    assert named
    assert all(in_float[name] for name in named)
    assert sum(in_float.values()) == len(named) + 2, "and the first and the last convolution"
    assert "stage2, stage1 in single" in load_card(path.parents[1] / CARD_NAME).description


def test_the_parts_of_a_list_stay_in_float_by_its_name(tmp_path: Path) -> None:
    name = "posefpn-small-256x192"
    shutil.copytree(ROOT / "model_repository" / name, tmp_path / name)
    model = Model(load_card(tmp_path / name / CARD_NAME), tmp_path / name)
    crops = np.zeros((1, *model.card.input_shape), np.float32)
    graph = onnx.load(write_form(model, "int8", crops, in_float=("backbone",))).graph
    constants = {weight.name for weight in graph.initializer}
    in_float = {n.name: n.input[1] in constants for n in graph.node if n.op_type == "Conv"}
    inside = {name: kept for name, kept in in_float.items() if name.startswith("/backbone.")}
    assert len(inside) > 30
    assert all(inside.values())
    assert not all(in_float.values())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_sound_by_onnx_s_own_checker(models: Path, form: str) -> None:
    onnx.checker.check_model(onnx.load(file_of(models, form)), full_check=True)


def test_fp16_file_holds_no_float32_weight(models: Path) -> None:
    kinds = {w.data_type for w in onnx.load(file_of(models, "fp16")).graph.initializer if w.dims}
    assert TensorProto.FLOAT not in kinds


async def test_every_form_is_a_network_that_is_served(models: Path) -> None:
    async with running_pipeline(Settings(model_repository=models, threads=1)) as pipeline:
        assert set(pipeline.catalog.models) >= {f"{NAME}-{form}" for form in FORMS[1:]}
        boxes = np.array([[10, 10, 60, 90]], np.float32)
        for name in (NAME, *(f"{NAME}-{form}" for form in FORMS[1:])):
            options = EstimateOptions(model=name, boxes_xywh=boxes)
            estimate = await pipeline.estimate(encode(make_photo()), options)
            assert len(estimate.poses) == 1
        card = pipeline.catalog.get(f"{NAME}-int8", "pose").card
        assert "8 bits" in card.description
        assert card.verification == ()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--forms", "fp32,int4"], "--forms: 'int4' is not one of"),
        (["--forms", "int8"], "--forms: 8 bits need --calibrate"),
        (["--forms", "fp16", "--float", "stem"], "--float: only 8-bit forms"),
        (["--forms", "fp16", "--calibrate", "nowhere"], "--calibrate: only 8-bit forms"),
        (
            ["--forms", "int8", "--calibrate", "nowhere"],
            "nowhere/person_keypoints.json cannot be read",
        ),
    ],
)
def test_forms_that_cannot_be_made_are_named(folder: Path, options: list[str], named: str) -> None:
    arguments = ["export", folder / "run.pt", "--repository", folder / "no", "--name", NAME]
    arguments += ["--about", folder / "about.json", *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert named in result.stderr
    assert not (folder / "no").exists(), "nothing was written before"


def copy_of(models: Path, tmp_path: Path) -> Model:
    shutil.copytree(models / NAME, tmp_path / NAME)
    return Model(load_card(tmp_path / NAME / CARD_NAME), tmp_path / NAME)


def test_a_form_that_does_not_fit_on_the_disk_leaves_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(network: onnx.ModelProto, path: Path) -> None:
        path.write_bytes(network.SerializeToString()[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    model = copy_of(models, tmp_path)
    monkeypatch.setattr(onnx, "save", fill)
    with pytest.raises(OSError, match="No space left"):
        write_form(model, "fp16")
    with pytest.raises(OSError, match="No space left"):
        write_decoded(model)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_unknown_submodule_is_named(models: Path, tmp_path: Path) -> None:
    model = copy_of(models, tmp_path)
    crops = np.zeros((1, *model.card.input_shape), np.float32)
    with pytest.raises(BadData, match=r"no submodule 'backbone'; it has .*stage1, stage2"):
        write_form(model, "int8", crops, in_float=("backbone",))
    assert not (tmp_path / f"{NAME}-int8").exists()


def test_empty_folder_cannot_calibrate(folder: Path, models: Path, tmp_path: Path) -> None:
    card = load_catalog(models).get(NAME, "pose").card
    with pytest.raises(BadData, match=r"person_keypoints\.json cannot be read"):
        calibration_crops(tmp_path, card)


def test_every_form_is_one_that_is_verified() -> None:
    assert FORMS[1:] == VERIFIED_FORMS


@pytest.mark.parametrize("form", ["fp16", "fp16-storage"])
def test_kernel_beyond_half_precision_makes_no_form_of_halves(
    models: Path, tmp_path: Path, form: str
) -> None:
    model = copy_of(models, tmp_path)
    network = onnx.load(model.onnx_path)
    kernel = next(weight for weight in network.graph.initializer if len(weight.dims) == 4)
    large = numpy_helper.to_array(kernel) + np.float32(7e4)
    kernel.CopyFrom(numpy_helper.from_array(large, kernel.name))
    onnx.save(network, model.onnx_path)
    with pytest.raises(BadData, match=rf"{kernel.name} holds a number that half precision cannot"):
        write_form(model, form)
    assert not (tmp_path / f"{NAME}-{form}").exists()


def test_bias_beyond_half_precision_is_only_stored_as_it_is(models: Path, tmp_path: Path) -> None:
    model = copy_of(models, tmp_path)
    network = onnx.load(model.onnx_path)
    bias = next(weight for weight in network.graph.initializer if len(weight.dims) == 1)
    large = numpy_helper.to_array(bias) + np.float32(7e4)
    bias.CopyFrom(numpy_helper.from_array(large, bias.name))
    onnx.save(network, model.onnx_path)
    with pytest.raises(BadData, match=rf"{bias.name} holds a number that half precision cannot"):
        write_form(model, "fp16")
    assert not (tmp_path / f"{NAME}-fp16").exists()
    assert write_form(model, "fp16-storage").exists()


def _large_kernel(state: dict[str, Any]) -> None:
    state["ema"]["last.weight"][0, 0] = 7e4


def _large_when_folded(state: dict[str, Any]) -> None:
    state["ema"]["stem.0.1.weight"][:] = 1e8
    state["halves"] = True


def _not_a_number(state: dict[str, Any]) -> None:
    state["ema"]["last.weight"][0, 0] = float("nan")


def _no_spread(state: dict[str, Any]) -> None:
    state["recipe"] = json.dumps(json.loads(state["recipe"]) | {"std": [0, 1, 1]})


def _overflowing(state: dict[str, Any]) -> None:
    state["ema"]["stem.0.1.weight"][:] = 3e38


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_large_kernel, r"bad\.pt: last\.weight holds a number that half precision cannot"),
        (_large_when_folded, r"bad\.pt: stem\.\S+ holds a number that half precision cannot"),
        (_not_a_number, r"bad\.pt: last\.weight holds NaN"),
        (_no_spread, r"bad\.pt: field 'recipe': std\.0: "),
        (_overflowing, r"model\.onnx\.part: it or the network gives NaN"),
    ],
)
def test_bad_checkpoint_leaves_the_network_that_was_there(
    folder: Path, models: Path, tmp_path: Path, spoil: Callable[[dict[str, Any]], None], named: str
) -> None:
    for name in (NAME, f"{NAME}-decoded"):
        shutil.copytree(models / name, tmp_path / name)
    state = torch.load(folder / "run.pt")
    spoil(state)
    torch.save(state, tmp_path / "bad.pt")
    arguments = ["export", tmp_path / "bad.pt", "--repository", tmp_path, "--name", NAME]
    arguments += ["--about", folder / "about.json"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert re.fullmatch(f"error: [^\n]*{named}[^\n]*\n", result.stderr), result.stderr
    assert load_catalog(tmp_path).models[NAME].card == load_card(models / NAME / CARD_NAME)
    assert not list(tmp_path.rglob("*.part"))


def test_failed_proof_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    state = torch.load(folder / "run.pt")
    _overflowing(state)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(ExportDiffers):
        export_checkpoint(CheckpointExport(tmp_path / "bad.pt", tmp_path / "new", NAME))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


@pytest.mark.parametrize("licence", [None, "MIT"])
def test_card_names_the_network_and_claims_no_licence_for_its_weights(
    folder: Path, tmp_path: Path, licence: str | None
) -> None:
    arguments = ["export", folder / "run.pt", "--repository", tmp_path / "models"]
    if licence is not None:
        (tmp_path / "about.json").write_text(json.dumps({"licence": licence}))
        arguments += ["--about", tmp_path / "about.json"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    card = load_card(tmp_path / "models" / "hrnet-w16-small" / CARD_NAME)
    assert card.name == "hrnet-w16-small"
    assert card.licence == f"code: Apache-2.0; weights: {licence or 'not stated'}"


@pytest.mark.parametrize("command", [["compare", NAME], ["export-decoded", "."]])
def test_damaged_network_file_is_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    path = copy_of(models, tmp_path).onnx_path
    path.write_bytes(path.read_bytes()[:5000])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1, result.output
    assert re.fullmatch(rf"error: network file {NAME}/1/model\.onnx [^\n]*\n", result.stderr)


@pytest.mark.parametrize("command", [["compare", NAME], ["export-decoded", "."]])
@pytest.mark.parametrize("content", [b"no network", b""])
def test_file_of_the_right_hash_that_is_no_network_is_named(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    content: bytes,
) -> None:
    model = copy_of(models, tmp_path)
    model.onnx_path.write_bytes(content)
    card = json.loads((model.folder / CARD_NAME).read_text())
    card["sha256"] = sha256_of(model.onnx_path)
    (model.folder / CARD_NAME).write_text(json.dumps(card))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1, result.output
    named = rf"error: {NAME}/1/model\.onnx: not a network ONNX Runtime can load [^\n]*\n"
    assert re.fullmatch(named, result.stderr), result.stderr


def test_calibration_is_spread_over_the_people_of_a_folder(
    folder: Path, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "coco", tmp_path / "coco")
    labels = made_labels()
    second = labels["annotations"][-1] | {"id": PHOTOS, "bbox": [20.0, 20.0, 100.0, 100.0]}
    labels["annotations"].append(second)
    (tmp_path / "coco" / "person_keypoints.json").write_text(json.dumps(labels))
    card = load_card(models / NAME / CARD_NAME)
    every = calibration_crops(tmp_path / "coco", card)
    assert len(every) == PHOTOS + 1
    chosen = calibration_crops(tmp_path / "coco", card, count=3)
    np.testing.assert_array_equal(chosen, every[[0, 3, 6]])
    for index in (1, 2, 4):  # nobody of them is chosen: they are not read
        (tmp_path / "coco" / "images" / f"{index}.png").write_bytes(b"no photo")
    assert len(calibration_crops(tmp_path / "coco", card, count=3)) == 3


def test_broken_photo_cannot_calibrate(folder: Path, models: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "coco", tmp_path / "coco")
    (tmp_path / "coco" / "images" / "3.png").write_bytes(encoded(3)[:100])
    with pytest.raises(BadData, match=r"coco: 3\.png: "):
        calibration_crops(tmp_path / "coco", load_card(models / NAME / CARD_NAME))


def test_calibration_crops_are_those_of_caches_of_any_size(
    folder: Path, models: Path, tmp_path: Path
) -> None:
    labels = folder / "coco" / "person_keypoints.json"
    card = load_card(models / NAME / CARD_NAME)
    for size_wh in ((240, 320), (480, 640)):
        build_cache(labels, tmp_path / str(size_wh), crop_wh=size_wh)
    small, large = (calibration_crops(path, card) for path in sorted(tmp_path.iterdir()))
    inner = np.s_[..., 8:-8, 8:-8]  # the made pictures end within the crops
    assert np.abs(small - large)[inner].mean() < 0.05 * np.abs(small).mean()
    assert (
        np.abs(small[..., 1:] - large[..., :-1])[inner].mean() > np.abs(small - large)[inner].mean()
    )
