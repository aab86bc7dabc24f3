"""The networks that the papers compare with, layer by layer as their own papers draw them.

Nothing here calls a layer under test: the weights are read in the order in which a network holds
them, and what is done with them is written down once more with torch's functions.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from made_norms import randomise_norms
from posenets.networks import build_network
from posenets.networks.blocks import initialise, lite_basic_block
from posenets.networks.gadnet import _ghost_se_block
from posenets.networks.hrnet import HRNetNumbers, hrnet
from posenets.networks.le_hrnet import LEHRNetNumbers, le_hrnet
from posenets.networks.litedeconv import LiteDeconvNumbers, LiteDeconvPose
from posenets.networks.mobilenetv3 import LARGE, MobileNetV3Numbers

Act = Callable[[Tensor], Tensor]
Step = Callable[["Weights", Tensor], Tensor]


class Weights:
    """Convolutions and normalisations of a network, handed out in its own order."""

    def __init__(self, network: nn.Module) -> None:
        kinds = nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d
        self._next = iter([layer for layer in network.modules() if isinstance(layer, kinds)])

    def kernel(self) -> nn.Conv2d:
        """The next convolution itself."""
        layer = next(self._next)
        assert isinstance(layer, nn.Conv2d)
        return layer

    def conv(self, x: Tensor, stride: int = 1) -> Tensor:
        """The next convolution of x; its weights tell kernel and groups."""
        layer = self.kernel()
        groups = x.shape[1] // layer.weight.shape[1]
        return functional.conv2d(
            x, layer.weight, layer.bias, stride, layer.weight.shape[2] // 2, 1, groups
        )

    def norm(self, x: Tensor) -> Tensor:
        layer = next(self._next)
        assert isinstance(layer, nn.BatchNorm2d)
        assert layer.running_mean is not None and layer.running_var is not None
        centred = x - layer.running_mean[:, None, None]
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return centred * scale[:, None, None] + layer.bias[:, None, None]

    def both(self, x: Tensor, stride: int = 1) -> Tensor:
        """A convolution without bias and its normalisation."""
        return self.norm(self.conv(x, stride))

    def doubled(self, x: Tensor) -> Tensor:
        """Transposed 4x4 of stride 2, normalisation and ReLU."""
        layer = next(self._next)
        assert isinstance(layer, nn.ConvTranspose2d) and layer.weight.shape[2:] == (4, 4)
        groups = 1 if layer.weight.shape[1] > 1 else x.shape[1]
        return functional.relu(
            self.norm(functional.conv_transpose2d(x, layer.weight, None, 2, 1, 0, groups))
        )

    def squeeze_excite(self, x: Tensor, gate: Act) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * gate(self.conv(functional.relu(self.conv(mean))))

    def are_used_up(self) -> bool:
        return next(self._next, None) is None


def shuffled(x: Tensor) -> Tensor:
    """Channels of two halves in turn."""
    n, channels, height, width = x.shape
    halves = x.reshape(n, 2, channels // 2, height, width)
    return halves.transpose(1, 2).reshape(n, channels, height, width)


def mobilenetv2(w: Weights, x: Tensor) -> Tensor:
    """Table 2 of Sandler et al., CVPR 2018; stem, and ReLU6 but after the projections."""
    rows = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    )  # fmt: skip
    x = functional.relu6(w.both(x, 2))
    for expansion, channels, count, stride in rows:
        for step in (stride, *[1] * (count - 1)):
            y = functional.relu6(w.both(x)) if expansion > 1 else x
            y = w.both(functional.relu6(w.both(y, step)))
            x = x + y if step == 1 and x.shape[1] == channels else y
    return functional.relu6(w.both(x))


def shufflenetv2(w: Weights, x: Tensor) -> Tensor:
    """Table 5 of Ma et al., ECCV 2018, 1x: no ReLU after a depthwise convolution."""

    def unit(x: Tensor, stride: int) -> Tensor:
        return functional.relu(w.both(w.both(functional.relu(w.both(x)), stride)))

    x = functional.max_pool2d(functional.relu(w.both(x, 2)), 3, 2, 1)
    for count in (4, 8, 4):
        left = functional.relu(w.both(w.both(x, 2)))
        x = shuffled(torch.cat([left, unit(x, 2)], 1))
        for _ in range(count - 1):
            left, right = x.chunk(2, 1)
            x = shuffled(torch.cat([left, unit(right, 1)], 1))
    return functional.relu(w.both(x))


def resnet50(w: Weights, x: Tensor) -> Tensor:
    """He et al., CVPR 2016; the stride of a stage is in the 3x3 of its first bottleneck."""
    x = functional.max_pool2d(functional.relu(w.both(x, 2)), 3, 2, 1)
    for count, stride in ((3, 1), (4, 2), (6, 2), (3, 2)):
        for index in range(count):
            step = stride if index == 0 else 1
            y = w.both(functional.relu(w.both(functional.relu(w.both(x)), step)))
            x = functional.relu(y + (w.both(x, step) if index == 0 else x))
    return x


def mobilenetv3(rows: str, *, project_act: bool = False) -> Step:
    """A word a row: squeeze-excite or none, ReLU or hard-swish, stride. Kernels tell the rest."""

    def backbone(w: Weights, x: Tensor) -> Tensor:
        x = functional.hardswish(w.both(x, 2))
        for row in rows.split():
            act = functional.relu if row[1] == "r" else functional.hardswish
            stride = int(row[2])
            y = act(w.both(act(w.both(x)), stride))
            y = w.squeeze_excite(y, functional.hardsigmoid) if row[0] == "s" else y
            y = act(w.both(y)) if project_act else w.both(y)
            x = x + y if stride == 1 and x.shape[1] == y.shape[1] else y
        return functional.hardswish(w.both(x))

    return backbone


LARGE_ROWS = "-r1 -r2 -r1 sr2 sr1 sr1 -h2 -h1 -h1 -h1 sh1 sh1 sh1 sh2 sh1"
SMALL_ROWS = "sr2 -r2 -r1 sh2 sh1 sh1 sh1 sh1 sh2 sh1 sh1"


def cbam(w: Weights, x: Tensor) -> Tensor:
    """Equations 2 and 3 of Woo et al., ECCV 2018: one network for mean and maximum, then places."""
    first, second, around = (w.kernel() for _ in range(3))

    def both(z: Tensor) -> Tensor:
        hidden = functional.relu(functional.conv2d(z, first.weight, first.bias))
        return functional.conv2d(hidden, second.weight, second.bias)

    n, channels = x.shape[:2]
    mean, peak = x.mean((2, 3)), x.flatten(2).max(2).values
    gates = both(mean.reshape(n, channels, 1, 1)) + both(peak.reshape(n, channels, 1, 1))
    x = x * gates.sigmoid()
    maps = torch.stack([x.mean(1), x.max(1).values], 1)
    return x * functional.conv2d(maps, around.weight, None, 1, 3).sigmoid()


def simple(backbone: Step) -> Step:
    """Xiao et al., ECCV 2018: three transposed convolutions and a 1x1."""

    def network(w: Weights, x: Tensor) -> Tensor:
        x = backbone(w, x)
        for _ in range(3):
            x = w.doubled(x)
        return w.conv(x)

    return network


def litedeconv(backbone: Step, attention: Step) -> Step:
    """Three times a depthwise transposed convolution and a 1x1; one attention at the end."""

    def network(w: Weights, x: Tensor) -> Tensor:
        x = backbone(w, x)
        for _ in range(3):
            x = functional.relu(w.both(w.doubled(x)))
        return w.conv(attention(w, x))

    return network


def own_attention(w: Weights, x: Tensor) -> Tensor:
    channel = w.squeeze_excite(x, functional.hardsigmoid)
    return x + channel + x * functional.hardsigmoid(w.conv(functional.relu(w.conv(x))))


def squeeze_excite(w: Weights, x: Tensor) -> Tensor:
    return w.squeeze_excite(x, torch.sigmoid)


def ghost(w: Weights, x: Tensor, act: Act) -> Tensor:
    """[u, depthwise of u]."""
    u = act(w.both(x))
    return torch.cat([u, act(w.both(u))], 1)


def unchanged(x: Tensor) -> Tensor:
    return x


def ghost_block(w: Weights, x: Tensor) -> Tensor:
    return functional.relu(x + ghost(w, ghost(w, x, functional.relu), unchanged))


def ghost_se_block(w: Weights, x: Tensor) -> Tensor:
    """Squeeze-excite on what the two Ghost modules give, then the identity."""
    y = ghost(w, ghost(w, x, functional.relu), unchanged)
    return functional.relu(x + w.squeeze_excite(y, torch.sigmoid))


def ghost_bottleneck(w: Weights, x: Tensor) -> Tensor:
    y = ghost(w, ghost(w, ghost(w, x, functional.relu), functional.relu), unchanged)
    return functional.relu(y + (x if x.shape[1] == y.shape[1] else w.both(x)))


def plain_bottleneck(w: Weights, x: Tensor) -> Tensor:
    y = w.both(functional.relu(w.both(functional.relu(w.both(x)))))
    return functional.relu(y + (x if x.shape[1] == y.shape[1] else w.both(x)))


def fused(w: Weights, xs: list[Tensor], outputs: int, down: Step) -> list[Tensor]:
    """ReLU of the sum: the identity, 1x1 and nearest from coarser, `down` steps from finer."""
    found = []
    for i in range(outputs):
        total = torch.zeros_like(xs[i])
        for j, x in enumerate(xs):
            y = x
            if j > i:
                y = w.both(x)
                y = y.repeat_interleave(2 ** (j - i), 2).repeat_interleave(2 ** (j - i), 3)
            for step in range(i - j):
                y = down(w, y)
                y = functional.relu(y) if step < i - j - 1 else y
            total = total + y
        found.append(functional.relu(total))
    return found


def halved(w: Weights, x: Tensor) -> Tensor:
    return w.both(x, 2)


def high_resolution(bottleneck: Step, block: Step, *, last_outputs: int) -> Step:
    """Two bottlenecks, a module a stage, a block a branch: the rest is counted elsewhere."""

    def network(w: Weights, x: Tensor) -> Tensor:
        x = functional.relu(w.both(functional.relu(w.both(x, 2)), 2))
        x = bottleneck(w, bottleneck(w, x))
        xs = [functional.relu(w.both(x)), functional.relu(w.both(x, 2))]
        for outputs in (2, 3):
            xs = fused(w, [block(w, branch) for branch in xs], outputs, halved)
            xs.append(functional.relu(w.both(xs[-1], 2)))
        xs = fused(w, [block(w, branch) for branch in xs], last_outputs, halved)
        return w.conv(xs[0])

    return network


def lite_hrnet(w: Weights, x: Tensor) -> Tensor:
    """Lite-HRNet-18 (Yu et al., CVPR 2021): conditional channel weighting, as their code has it."""

    def separable(x: Tensor, stride: int = 1) -> Tensor:
        return functional.relu(w.both(w.both(x, stride)))

    def weighted(xs: list[Tensor]) -> list[Tensor]:
        kept, changed = zip(*(x.chunk(2, 1) for x in xs), strict=True)
        size = changed[-1].shape[2:]
        coarse = torch.cat([functional.adaptive_avg_pool2d(x, size) for x in changed], 1)
        gates = w.both(functional.relu(w.both(coarse))).sigmoid()
        parts = gates.split([x.shape[1] for x in changed], 1)
        spread = [
            x * functional.interpolate(part, x.shape[2:], mode="nearest")
            for x, part in zip(changed, parts, strict=True)
        ]
        filtered = [w.squeeze_excite(w.both(x), torch.sigmoid) for x in spread]
        return [
            shuffled(torch.cat([left, right], 1))
            for left, right in zip(kept, filtered, strict=True)
        ]

    def down(w: Weights, x: Tensor) -> Tensor:
        return w.both(w.both(x, 2))

    x = functional.relu(w.both(x, 2))
    left, right = x.chunk(2, 1)
    left = functional.relu(w.both(w.both(left, 2)))
    right = functional.relu(w.both(w.both(functional.relu(w.both(right)), 2)))
    x = shuffled(torch.cat([left, right], 1))
    xs = [separable(x), separable(x, 2)]
    for modules in (2, 4, 2):
        for _ in range(modules):
            xs = fused(w, weighted(weighted(xs)), len(xs), down)
        if len(xs) < 4:
            xs.append(separable(xs[-1], 2))
    x = xs.pop()
    while xs:
        finer = xs.pop()
        x = finer + functional.interpolate(
            separable(x), finer.shape[2:], mode="bilinear", align_corners=True
        )
    return w.conv(separable(x))


RIVALS: dict[str, Step] = {
    "simple-mobilenetv2": simple(mobilenetv2),
    "simple-mobilenetv3": simple(mobilenetv3(LARGE_ROWS)),
    "simple-shufflenetv2": simple(shufflenetv2),
    "simple-resnet50": simple(resnet50),
    "litedeconv": litedeconv(mobilenetv3(LARGE_ROWS), own_attention),
    "litedeconv-se": litedeconv(mobilenetv3(LARGE_ROWS), squeeze_excite),
    "litedeconv-cbam": litedeconv(mobilenetv3(LARGE_ROWS), cbam),
    "litedeconv-none": litedeconv(mobilenetv3(LARGE_ROWS), lambda _, x: x),
    "litedeconv-small": litedeconv(mobilenetv3(SMALL_ROWS), own_attention),
    "lite-hrnet-18": lite_hrnet,
}


@pytest.fixture(autouse=True)
def _seeded_and_on_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def assert_same(network: nn.Module, drawn: Step) -> None:
    for layer in network.modules():  # biases would be zero, gates all the same
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.3)
    randomise_norms(network)
    network.double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for norm in network.modules():  # wide enough to be cut at 6 and by hard sigmoids
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight *= 8
    network.train()(images)
    found = network.eval()(images)
    weights = Weights(network)
    expected = drawn(weights, images)
    assert weights.are_used_up()
    bound = 1e-8 * float(expected.max() - expected.min())
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_is_the_one_of_its_paper(name: str) -> None:
    assert_same(build_network(name), RIVALS[name])


FEW = HRNetNumbers(width=16, planes=32, bottlenecks=2, modules=(1, 1, 1), blocks=1)
FEW_GHOSTS = LEHRNetNumbers(
    width=16, planes=32, bottlenecks=2, modules=(1, 1, 1), blocks=1, mcam=False, cmffm=False
)


@pytest.mark.parametrize(
    ("network", "drawn"),
    [
        (lambda: hrnet(17, FEW, block=lite_basic_block), (ghost_block, 1)),
        (lambda: hrnet(17, FEW, block=_ghost_se_block), (ghost_se_block, 1)),
        (
            lambda: le_hrnet(17, (64, 64), FEW_GHOSTS),
            (ghost_block, 4),
        ),
    ],
    ids=["ghost", "ghost-se", "le-hrnet"],
)
def test_an_ablation_is_hrnet_with_blocks_of_its_own(
    network: Callable[[], nn.Module], drawn: tuple[Step, int]
) -> None:
    block, outputs = drawn
    bottleneck = ghost_bottleneck if outputs == 4 else plain_bottleneck
    assert_same(network(), high_resolution(bottleneck, block, last_outputs=outputs))


def test_projections_may_be_activated_as_in_the_authors_base_library() -> None:
    backbone = MobileNetV3Numbers(LARGE.rows, LARGE.channels_out, project_act=True)
    drawn = litedeconv(mobilenetv3(LARGE_ROWS, project_act=True), own_attention)
    assert_same(LiteDeconvPose(17, LiteDeconvNumbers(backbone=backbone)), drawn)


def test_hrnet_starts_as_its_reference_does() -> None:
    """Weights normal with deviation 0.001, biases 0, scales 1, shifts 0."""
    network = hrnet(numbers=HRNetNumbers(width=16, planes=32, modules=(1, 1, 1), blocks=1))
    drawn = [layer.weight.flatten() for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert torch.cat(drawn).std().item() == pytest.approx(0.001, rel=0.02)
    assert network.last.bias is not None and not network.last.bias.any()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()


def test_the_others_start_by_he_with_faint_heatmaps() -> None:
    """He et al., ICCV 2015, by the fan of the outputs; the last layer begins near nothing."""
    wide, last = nn.Conv2d(16, 64, 3), nn.Conv2d(64, 256, 1)
    initialise(nn.Sequential(wide, last), last=last)
    assert wide.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert last.weight.std().item() == pytest.approx(0.001, rel=0.05)
    for layer in (wide, last):
        assert layer.bias is not None and not layer.bias.any()
