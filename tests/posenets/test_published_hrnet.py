"""Published HRNet checkpoints: what a network with their names gives, ours gives too."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from made_norms import randomise_norms
from posenets.networks.hrnet import HRNetNumbers, hrnet
from posenets.training.checkpoint import BadCheckpoint, load_weights

NUMBERS = HRNetNumbers(width=4, stem=8, planes=2, bottlenecks=2, modules=(1, 2, 2), blocks=2)


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


@pytest.mark.parametrize(
    ("renamed", "nested"),
    [
        (lambda name: name, True),  # mmpose 0.x
        (lambda name: name.replace("keypoint_head.", "head."), True),  # mmpose 1.x
        (lambda name: name.split(".", 1)[1], False),  # HRNet's own code
    ],
)
def test_published_weights_give_the_published_heatmaps(
    published: _Published, tmp_path: Path, renamed: object, nested: bool
) -> None:
    assert callable(renamed)
    weights = {renamed(name): weight for name, weight in published.state_dict().items()}
    path = tmp_path / "hrnet.pth"
    torch.save({"meta": {"epoch": 210}, "state_dict": weights} if nested else weights, path)
    ours = hrnet(17, NUMBERS)
    load_weights(ours, path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), published.eval()(images))


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
