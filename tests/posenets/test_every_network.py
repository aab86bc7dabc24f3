"""Every kind of network: trained for some steps by name, exported, compared, and served."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from deploy.tiny_networks import TINY
from fakes import encode, make_photo
from labelled_folder import BOXES, label, write
from made_labels import PHOTOS, encoded, made_labels
from posegate.card import Training
from posegate.settings import Settings
from posegate.verify import verify
from posenets.export.checkpoint import CheckpointExport, export_checkpoint
from posenets.export.compare import compare_with_torch
from posenets.networks import NETWORKS
from posenets.training.cache import build_cache
from posenets.training.checkpoint import load_checkpoint
from posenets.training.recipe import find_recipe, read_recipe
from posenets.training.start import pose_trainer, with_network
from posenets.training.start_weights import joints_of
from wire.running import running_service

SHRUNK = {
    "hrnet-w32": "hrnet",
    "nam-hrnet": "nam-hrnet",
    "goatpose-bl": "goatpose",
    "gadnet-w32": "gadnet",
    "le-hrnet": "le-hrnet",
    "lite-hrnet-18": "lite-hrnet",
}
"""Networks with the same layers, fewer and narrower, in their place."""
WHOLE = ("hrnet-w16-small", "posefpn-small", "litedeconv", "litedeconv-mpii", "simple-shufflenetv2")
"""Small enough as they are."""
RECIPES = {
    "hrnet-w32": "hrnet",
    "goatpose-bl": "goatpose",
    "nam-hrnet": "nam-hrnet",
    "gadnet-w32": "gadnet",
    "le-hrnet": "le-hrnet",
    "litedeconv": "litedeconv-paper",
    "litedeconv-mpii": "litedeconv-mpii",
}
"""The paper's own; the others go by the short recipe."""
NAMES = (*SHRUNK, *WHOLE)
STEPS = 3
ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.parent for path in (ROOT / "model_repository").glob("*/training.pt"))
REAL_PHOTOS = ROOT.parent / "shared" / "data" / "coco_val_part" / "images"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label file of made people."""
    folder = tmp_path_factory.mktemp("every")
    (folder / "images").mkdir()
    for index in range(PHOTOS):
        (folder / "images" / f"{index}.png").write_bytes(encoded(index))
    (folder / "labels.json").write_text(json.dumps(made_labels()))
    return folder / "labels.json"


def train_and_export(name: str, labels: Path) -> Path:
    """The repository that holds the network after three steps of its recipe at a small input."""
    folder = labels.parent / name
    joints = joints_of(name)
    cache = labels.parent / f"cache{len(joints)}"
    if not cache.exists():
        build_cache(labels, cache, joint_names=joints)
    recipe = with_network(read_recipe(find_recipe(RECIPES.get(name, "short"))), name)
    phase = recipe.phases[-1].model_copy(update={"width": 64, "height": 64, "batch": 2})
    short = {"examples": 2 * STEPS, "epochs": 0.0, "schedule": "cosine", "milestones": ()}
    recipe = recipe.model_copy(update=short | {"phases": (phase,)})
    checkpoint = labels.parent / f"{name}.pt"
    device = torch.device("cpu")
    trainer = pose_trainer(recipe, [cache], start=None, device=device, checkpoint=checkpoint)
    trainer.run()
    assert load_checkpoint(checkpoint)["progress"]["steps"] == STEPS
    training = Training(data=("made dots",))
    export_checkpoint(CheckpointExport(checkpoint, folder, name, "a test", training))
    assert compare_with_torch(folder / name) < 1e-4
    return folder


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_files_are_their_networks(folder: Path) -> None:
    """Which holds every layer's kind and order, since the weights fit no other."""
    assert compare_with_torch(folder) < 1e-4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos, real ones where the evaluation photos are there, with a labelled person each."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    real = sorted(REAL_PHOTOS.glob("*.jpg")) if REAL_PHOTOS.is_dir() else []
    made = encode(make_photo(width=640, height=480))
    contents = [path.read_bytes() for path in real[:2]] or [made, made]
    for name, content in zip(("1.png", "2.png"), contents, strict=True):
        (folder / "images" / name).write_bytes(content)
    write(folder, [label(1, 1, BOXES[0]), label(2, 2, BOXES[1])])
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the tracing exporter is the old one
@pytest.mark.parametrize("name", NAMES)
def test_network_is_trained_exported_folded_verified_and_served(
    name: str, labels: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in SHRUNK:
        tiny = replace(NETWORKS[name], constructor=TINY[SHRUNK[name]])
        monkeypatch.setitem(NETWORKS, name, tiny)
    repository = train_and_export(name, labels)
    assert_nothing_is_left_to_fold(name, onnx.load(repository / name / "1" / "model.onnx").graph)
    checks = asyncio.run(verify(Settings(model_repository=repository, threads=1), name, photos))
    # the process that compares with torch knows nothing of a shrunk network
    assert [check.form for check in checks if check.ok] == ["onnx-fp32", "http"][name in SHRUNK :]
    with (
        running_service(repository, tmp_path / "log", "--model", name) as service,
        service.client() as client,
    ):
        answer = client.post(
            "/v1/poses",
            params={"boxes": json.dumps(BOXES)},
            content=(photos / "images" / "1.png").read_bytes(),
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == name
    people = answer.json()["people"]
    assert [list(person["keypoints"]) for person in people] == [list(joints_of(name))] * 2


def assert_nothing_is_left_to_fold(name: str, graph: onnx.GraphProto) -> None:
    producers = {output: node.op_type for node in graph.node for output in node.output}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert all(producers[norm.input[0]] != "Conv" for norm in norms), "a BatchNorm was not folded"
    assert not norms or "nam" in name or "goat" in name, "only NAM's own BatchNorm may stay"
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    assert all(set(node.output) & read for node in graph.node), "a branch that nobody reads"
    assert {weight.name for weight in graph.initializer} <= read, "weights that nobody reads"
    operators = {node.op_type for node in graph.node}
    assert not operators & {"Shape", "Loop", "If", "Abs"}, "run-time arithmetic"
