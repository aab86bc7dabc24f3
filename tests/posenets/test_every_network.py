"""Every kind of network: trained for some steps by name, exported, compared, and served."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from deploy.tiny_networks import TINY
from fakes import encode, make_photo
from made_labels import PHOTOS, encoded, made_labels
from posegate.build import running_pipeline
from posegate.card import Training
from posegate.options import EstimateOptions
from posegate.settings import Settings
from posegate.types import Keypoints
from posenets.export.checkpoint import CheckpointExport, export_checkpoint
from posenets.export.compare import compare_with_torch
from posenets.networks import NETWORKS
from posenets.training.cache import build_cache
from posenets.training.checkpoint import load_checkpoint
from posenets.training.recipe import find_recipe, read_recipe
from posenets.training.start import joints_of, pose_trainer, with_network
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
BOXES = [[10, 10, 90, 100], [30, 5, 80, 110]]
REAL_PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "coco_val_part" / "images"


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
    with pytest.MonkeyPatch.context() as patch:
        if name in SHRUNK:
            tiny = replace(NETWORKS[name], constructor=TINY[SHRUNK[name]])
            patch.setitem(NETWORKS, name, tiny)
        trainer = pose_trainer(recipe, [cache], start=None, device=device, checkpoint=checkpoint)
        trainer.run()
        assert load_checkpoint(checkpoint)["progress"]["steps"] == STEPS
        training = Training(data=("made dots",))
        export_checkpoint(CheckpointExport(checkpoint, folder, name, "a test", training))
        assert compare_with_torch(folder / name) < 1e-4
    return folder


def a_photo() -> bytes:
    """A real one where the evaluation photos are there."""
    photos = sorted(REAL_PHOTOS.glob("*.jpg")) if REAL_PHOTOS.is_dir() else []
    return photos[0].read_bytes() if photos else encode(make_photo(), ".jpg")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the tracing exporter is the old one
@pytest.mark.parametrize("name", NAMES)
def test_network_is_trained_exported_folded_and_served(name: str, labels: Path) -> None:
    repository = train_and_export(name, labels)
    assert_nothing_is_left_to_fold(name, onnx.load(repository / name / "1" / "model.onnx").graph)
    keypoints = asyncio.run(served_in_process(repository, name))
    assert keypoints.xy.shape == (2, len(joints_of(name)), 2)
    assert np.isfinite(keypoints.xy).all()


async def served_in_process(repository: Path, name: str) -> Keypoints:
    options = EstimateOptions(model=name, boxes_xywh=np.array(BOXES, np.float32))
    async with running_pipeline(Settings(model_repository=repository, threads=1)) as pipeline:
        return (await pipeline.estimate(a_photo(), options)).poses.keypoints


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trained_network_is_served_over_a_real_socket(labels: Path, tmp_path: Path) -> None:
    name = "hrnet-w32"
    with (
        running_service(train_and_export(name, labels), tmp_path / "log.txt") as service,
        service.client() as client,
    ):
        answer = client.post(
            "/v1/poses",
            params={"model": name, "boxes": json.dumps(BOXES)},
            content=a_photo(),
            headers={"content-type": "image/jpeg"},
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == name
    assert set(answer.json()["people"][0]["keypoints"]) == set(joints_of(name))
