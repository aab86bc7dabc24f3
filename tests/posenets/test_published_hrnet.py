"""Published HRNet checkpoints: what a network with their names gives, ours gives too."""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from made_norms import randomise_norms
from posegate.card import HeatmapSpec, Training
from posegate.catalog import CARD_NAME, load_card, load_catalog
from posenets.cli import app
from posenets.export.card import NetworkFacts, pose_card
from posenets.export.checkpoint import START_FILE, CheckpointExport, export_checkpoint
from posenets.export.published import published_state
from posenets.networks import NETWORKS
from posenets.networks.hrnet import HRNetNumbers, hrnet
from posenets.training.checkpoint import BadCheckpoint, load_checkpoint, load_weights
from posenets.training.recipe import IMAGENET_MEAN, IMAGENET_STD

NUMBERS = HRNetNumbers(width=4, stem=8, planes=2, bottlenecks=2, modules=(1, 2, 2), blocks=2)

_FACTS = NetworkFacts(
    name="made",
    description="",
    size_wh=(192, 256),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    parameters=1,
    gflops=1.0,
    training=Training(),
    sha256="0" * 64,
)


class _Block(nn.Module):
    """mmpose's BasicBlock (two convolutions) or Bottleneck (three)."""

    def __init__(self, channels: int, planes: list[int], kernels: list[int]) -> None:
        super().__init__()
        self.count = len(planes)
        before = channels
        for number, (plane, kernel) in enumerate(zip(planes, kernels, strict=True), 1):
            conv = nn.Conv2d(before, plane, kernel, padding=kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(plane))
            before = plane
        self.downsample = None
        if channels != before:
            self.downsample = _conv(channels, before, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = torch.relu(y) if number < self.count else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


class _Module(nn.Module):
    """mmpose's HRModule."""

    def __init__(self, branches: int, outputs: int) -> None:
        super().__init__()
        channels = [NUMBERS.width * 2**k for k in range(branches)]
        self.branches = nn.ModuleList(
            nn.Sequential(*(_Block(c, [c, c], [3, 3]) for _ in range(NUMBERS.blocks)))
            for c in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(channels, i, j) for j in range(branches))
            for i in range(outputs)
        )

    @staticmethod
    def _path(channels: list[int], i: int, j: int) -> nn.Module | None:
        if i == j:
            return None
        if j > i:
            up = nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")
            return nn.Sequential(*_conv(channels[j], channels[i], 1)[:2], up)
        steps = [_conv(channels[j], channels[j], 3, 2) for _ in range(i - j - 1)]
        return nn.Sequential(*steps, _conv(channels[j], channels[i], 3, 2)[:2])

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        ys = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        return [
            torch.relu(sum(y if path is None else path(y) for path, y in zip(row, ys, strict=True)))
            for row in self.fuse_layers
        ]


class _Backbone(nn.Module):
    """mmpose's HRNet."""

    def __init__(self) -> None:
        super().__init__()
        c, top = NUMBERS.width, 4 * NUMBERS.planes
        self.conv1, self.bn1, _ = _conv(3, NUMBERS.stem, 3, 2)
        self.conv2, self.bn2, _ = _conv(NUMBERS.stem, NUMBERS.stem, 3, 2)
        planes = [NUMBERS.planes, NUMBERS.planes, top]
        widths = [NUMBERS.stem] + [top] * (NUMBERS.bottlenecks - 1)
        self.layer1 = nn.Sequential(*(_Block(w, planes, [1, 3, 1]) for w in widths))
        deeper = nn.Sequential(_conv(top, 2 * c, 3, 2))
        self.transition1 = nn.ModuleList([_conv(top, c, 3), deeper])
        self.stage2 = self._stage(2, NUMBERS.modules[0])
        deeper = nn.Sequential(_conv(2 * c, 4 * c, 3, 2))
        self.transition2 = nn.ModuleList([None, None, deeper])
        self.stage3 = self._stage(3, NUMBERS.modules[1])
        deeper = nn.Sequential(_conv(4 * c, 8 * c, 3, 2))
        self.transition3 = nn.ModuleList([None, None, None, deeper])
        self.stage4 = self._stage(4, NUMBERS.modules[2], last=1)

    @staticmethod
    def _stage(branches: int, modules: int, last: int | None = None) -> nn.Sequential:
        outputs = [branches] * (modules - 1) + [last or branches]
        return nn.Sequential(*(_Module(branches, count) for count in outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        x = self.layer1(x)
        xs = self.stage2([transition(x) for transition in self.transition1])
        xs = self.stage3([*xs, self.transition2[-1](xs[-1])])
        return self.stage4([*xs, self.transition3[-1](xs[-1])])[0]


class _Published(nn.Module):
    """mmpose 0.x's TopDown: backbone and keypoint_head."""

    def __init__(self, joints: int = 17) -> None:
        super().__init__()
        self.backbone = _Backbone()
        self.keypoint_head = nn.Module()
        self.keypoint_head.final_layer = nn.Conv2d(NUMBERS.width, joints, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.keypoint_head.final_layer(self.backbone(x))


@pytest.fixture(scope="module")
def published() -> _Published:
    torch.manual_seed(0)
    network = _Published()
    randomise_norms(network)
    return network


def _meta(config: str = "codec = dict(type='MSRAHeatmap', sigma=2)") -> dict[str, Any]:
    """What mmpose 1.x keeps beside the weights."""
    return {
        "epoch": 210,
        "iter": np.int64(49140),
        "seed": np.array([3, 1], np.uint32),
        "cfg": config,
        "experiment_name": "td-hm_hrnet",
        "mmengine_version": "0.1.0",
        "hook_msgs": OrderedDict(best_score=np.float64(0.75)),
        "dataset_meta": {
            "dataset_name": "coco",
            "keypoint_id2name": {0: "nose"},
            "flip_indices": [0, 2, 1],
            "skeleton_links": [(15, 13)],
            "keypoint_colors": np.array([[51, 153, 255]] * 17, np.uint8),
            "dataset_keypoint_weights": np.ones(17, np.float32),
            "sigmas": np.full(17, 0.026),
            "CLASSES": np.array(["person"]),
            "num_keypoints": 17,
        },
    }


def _version_1(name: str) -> str:
    return name.replace("keypoint_head.", "head.")


@pytest.mark.parametrize("zipped", [True, False])  # mmpose's publishing script writes no zip
@pytest.mark.parametrize(
    ("renamed", "beside"),
    [
        (lambda name: name, {"meta": {"epoch": 210}}),  # mmpose 0.x
        (_version_1, {"meta": _meta()}),  # mmpose 1.x
        (lambda name: name.split(".", 1)[1], None),  # HRNet's own code
    ],
)
def test_published_weights_give_the_published_heatmaps(
    published: _Published,
    tmp_path: Path,
    renamed: Callable[[str], str],
    beside: dict[str, Any] | None,
    zipped: bool,
) -> None:
    weights = {renamed(name): weight for name, weight in published.state_dict().items()}
    path = tmp_path / "hrnet.pth"
    state = weights if beside is None else {**beside, "state_dict": weights}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    ours = hrnet(17, NUMBERS)
    load_weights(ours, path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), published.eval()(images))


def test_arrays_of_numpy_1_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "hrnet.pth"
    torch.save({"meta": _meta()}, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert b"numpy._core.mult" in written
    path.write_bytes(written.replace(b"numpy._core.mult", b"numpy.core.mult"))
    meta = load_checkpoint(path)["meta"]
    assert meta["dataset_meta"]["keypoint_colors"].tolist() == [[51, 153, 255]] * 17


class HistoryBuffer:
    """Stands for mmengine's, which its message hub keeps losses in."""


def test_what_cannot_be_loaded_safely_is_named_with_the_way_out(
    published: _Published, tmp_path: Path
) -> None:
    path = tmp_path / "epoch_210.pth"
    hub = {"log_scalars": OrderedDict(loss=HistoryBuffer())}
    torch.save({"state_dict": published.state_dict(), "message_hub": hub}, path)
    with pytest.raises(BadCheckpoint, match=r"holds a \S*HistoryBuffer, .*'state_dict'") as caught:
        load_weights(hrnet(17, NUMBERS), path)
    assert "weights_only" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def tiny_w32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's hrnet-w32 is as small as the made one."""
    tiny = replace(NETWORKS["hrnet-w32"], constructor=lambda joints, _: hrnet(joints, NUMBERS))
    monkeypatch.setitem(NETWORKS, "hrnet-w32", tiny)


@pytest.mark.usefixtures("tiny_w32")
def test_published_file_becomes_a_served_network_whose_card_names_it(
    published: _Published, tmp_path: Path
) -> None:
    weights = {_version_1(name): weight for name, weight in published.state_dict().items()}
    path, repository = tmp_path / "td-hm_hrnet-w32.pth", tmp_path / "models"
    torch.save({"meta": _meta(), "state_dict": weights}, path)
    arguments = ["export", path, "--network", "hrnet-w32", "--repository", repository]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output

    model = load_catalog(repository).get("hrnet-w32", "pose")
    digest = sha256(path.read_bytes()).hexdigest()
    assert f"not trained here: from {path.name}, sha256 {digest}" in model.card.training.notes
    assert model.card.training.data == ()
    assert isinstance(model.card.codec, HeatmapSpec)
    assert (model.card.codec.scale, model.card.codec.sigma) == ((4.0, 4.0), 2.0)
    images = torch.randn(2, 3, 256, 192)
    (heatmaps,) = ort.InferenceSession(model.onnx_path).run(None, {"input": images.numpy()})
    with torch.no_grad():
        expected = published.eval()(images)
    torch.testing.assert_close(torch.from_numpy(heatmaps), expected, rtol=1e-3, atol=1e-4)
    result = CliRunner().invoke(app, ["compare", str(model.folder)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("name", "config", "udp"),
    [
        ("hrnet.pth", "codec = dict(type='MSRAHeatmap', sigma=2)", False),
        ("hrnet.pth", "codec = dict(type='UDPHeatmap', sigma=2)", True),
        ("td-hm_hrnet-w32_udp-8xb64-210e_coco.pth", "", True),  # its config was left out
    ],
)
def test_heatmaps_drawn_by_udp_are_read_so(
    published: _Published, tmp_path: Path, name: str, config: str, udp: bool
) -> None:
    path = tmp_path / name
    torch.save({"meta": _meta(config), "state_dict": published.state_dict()}, path)
    assert published_state(path, "hrnet-w32")["udp"] is udp
    card = pose_card(_FACTS, sigma=2.0, to_corners=udp)
    assert card["codec"]["scale"] == ([191 / 47, 255 / 63] if udp else [4.0, 4.0])


@pytest.mark.usefixtures("tiny_w32")
def test_weights_beside_the_card_are_exported_again_as_they_were_drawn(
    published: _Published, tmp_path: Path
) -> None:
    path, again = tmp_path / "hrnet_w32_udp-made.pth", tmp_path / "again"
    torch.save(published.state_dict(), path)
    export_checkpoint(CheckpointExport(path, tmp_path, "first", published="hrnet-w32"))
    export_checkpoint(CheckpointExport(tmp_path / "first" / START_FILE, again, "second"))
    first, second = (
        load_card(folder / CARD_NAME) for folder in (tmp_path / "first", again / "second")
    )
    assert second.codec == first.codec
    assert first.codec.scale == pytest.approx([191 / 47, 255 / 63])


@pytest.mark.parametrize(
    ("state", "network", "named"),
    [
        (None, "goatpose-bl", "--network: 'goatpose-bl' has no key map"),
        (None, "hrnet-w32", r"does not fit HighResolutionNet: size mismatch for \S+"),  # tiny one
        ({"recipe": "{}"}, "hrnet-w32", "is a checkpoint of train"),
        ({"state_dict": {"a": torch.zeros(1)}}, "hrnet-w32", "no HRNet's weights under published"),
        ({"state_dict": [1]}, "hrnet-w32", "field 'state_dict' holds no weights by name"),
    ],
)
def test_export_refuses_what_is_no_such_published_file(
    published: _Published, tmp_path: Path, state: object, network: str, named: str
) -> None:
    path = tmp_path / "hrnet.pth"
    torch.save(published.state_dict() if state is None else state, path)
    arguments = ["export", path, "--network", network, "--repository", tmp_path / "models"]
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert re.search(named, result.stderr), result.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backbone.layer9.0.conv1.weight": torch.zeros(1)}, "no weight 'backbone.layer9.0"),
        ({"keypoint_head.final_layer.bias": torch.zeros(16)}, r"last\.bias"),
    ],
)
def test_foreign_published_weights_are_refused_with_their_name(
    published: _Published, tmp_path: Path, changes: dict[str, Tensor], named: str
) -> None:
    path = tmp_path / "hrnet.pth"
    torch.save({"state_dict": published.state_dict() | changes}, path)
    with pytest.raises(BadCheckpoint, match=named) as caught:
        load_weights(hrnet(17, NUMBERS), path)
    assert str(path) in str(caught.value)
