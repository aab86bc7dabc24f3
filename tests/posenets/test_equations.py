"""The blocks of the papers against their written equations, computed once more in plain numpy.

Nothing here calls the layers under test: only their weights are read. Maps are (C, H, W) float64.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from posenets.networks.blocks import ConvBN, LiteConv, SqueezeExcite
from posenets.networks.gadnet import GaConv, GdBlock, gd_module
from posenets.networks.le_hrnet import CMFFM, le_block
from posenets.networks.litedeconv import OwnAttention
from posenets.networks.mcam import MCAM
from posenets.networks.nam import NamChannel

Maps = np.ndarray


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(5)
    with torch.no_grad():
        yield


def numbers(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().double().numpy()


def sigmoid(x: Maps) -> Maps:
    return 1 / (1 + np.exp(-x))


def relu(x: Maps) -> Maps:
    return np.maximum(x, 0)


def convolve(x: Maps, kernels: Maps, bias: Maps | None = None, *, stride: int = 1) -> Maps:
    """Zero-padded to keep the size; `kernels` (O, I/groups, k, k) tell the number of groups."""
    outputs, per_group, size, _ = kernels.shape
    groups = len(x) // per_group
    margin = size // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    height, width = (-(-length // stride) for length in x.shape[1:])
    y = np.zeros((outputs, height, width))
    for o in range(outputs):
        first = o // (outputs // groups) * per_group
        for row in range(height):
            for column in range(width):
                top, left = row * stride, column * stride
                window = padded[first : first + per_group, top : top + size, left : left + size]
                y[o, row, column] = (window * kernels[o]).sum()
    return y if bias is None else y + bias[:, None, None]


def normalise(x: Maps, norm: nn.BatchNorm2d) -> Maps:
    mean, variance, scale, shift = (
        numbers(value)[:, None, None]
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return scale * (x - mean) / np.sqrt(variance + norm.eps) + shift


def conv_bn(x: Maps, layer: ConvBN, *, stride: int = 1) -> Maps:
    """The convolution and its BatchNorm; any activation is the caller's."""
    conv, norm = layer[0], layer[1]
    assert isinstance(norm, nn.BatchNorm2d) and conv.bias is None
    return normalise(convolve(x, numbers(conv.weight), stride=stride), norm)


def squeeze_excite(x: Maps, layer: SqueezeExcite) -> Maps:
    """u * sigmoid(W2 ReLU(W1 z)), z the mean over space."""
    first, second = (m for m in layer.modules() if isinstance(m, nn.Conv2d))
    hidden = relu(numbers(first.weight)[:, :, 0, 0] @ x.mean((1, 2)) + numbers(first.bias))
    gate = sigmoid(numbers(second.weight)[:, :, 0, 0] @ hidden + numbers(second.bias))
    return x * gate[:, None, None]


def randomise(network: nn.Module) -> None:
    """Every weight, bias and statistic of its own, so that no two can be exchanged unseen."""
    for value in network.parameters():
        nn.init.normal_(value, std=0.7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.3, 2.0)  # type: ignore[arg-type]
    network.eval()


def assert_equal(found: Tensor, expected: list[Maps]) -> None:
    assert np.std(expected) > 0.01, "the test sees nothing"
    np.testing.assert_allclose(numbers(found), np.stack(expected), rtol=1e-4, atol=1e-4)


def made(channels: int, height: int, width: int) -> Tensor:
    return torch.randn(2, channels, height, width)


def test_nam_channel() -> None:
    """x * sigmoid(w_c BN(x)_c), w_c = |gamma_c| / sum |gamma|."""
    layer = NamChannel(6)
    randomise(layer)
    x = made(6, 4, 5)
    gamma = np.abs(numbers(layer.norm.weight))
    shares = (gamma / gamma.sum())[:, None, None]
    expected = [p * sigmoid(shares * normalise(p, layer.norm)) for p in numbers(x)]
    assert_equal(layer(x), expected)
    assert_equal(layer.folded()(x), expected)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("act", [nn.ReLU, None])
def test_lite_conv(kernel: int, act: type[nn.ReLU] | None) -> None:
    """[intrinsic, depthwise 3x3 of it], both with BN and, where there is one, ReLU."""
    layer = LiteConv(5, 6, kernel, act=act)
    randomise(layer)
    last = relu if act else np.array
    x = made(5, 5, 4)
    expected = []
    for p in numbers(x):
        u = last(conv_bn(p, layer.intrinsic))
        expected.append(np.concatenate([u, last(conv_bn(u, layer.ghost))]))
    assert_equal(layer(x), expected)


@pytest.mark.parametrize("with_relu", [True, False])
def test_ga_conv(with_relu: bool) -> None:
    """u = conv; a = SE(u); g = depthwise of a; [u, g] with the unweighted u."""
    layer = GaConv(6, 8, relu=with_relu)
    randomise(layer)
    last = relu if with_relu else np.array
    x = made(6, 5, 4)
    expected = []
    for p in numbers(x):
        u = last(conv_bn(p, layer.intrinsic))
        g = last(conv_bn(squeeze_excite(u, layer.attend), layer.ghost))
        expected.append(np.concatenate([u, g]))
    assert_equal(layer(x), expected)
    assert layer.ghost[0].weight.shape == (4, 1, 3, 3)


def gd_block(p: Maps, layer: GdBlock, *, with_relu: bool) -> Maps:
    """[conv of x, SE of the grouped conv of x], stride 2, in parallel."""
    last = relu if with_relu else np.array
    u = last(conv_bn(p, layer.intrinsic, stride=2))
    ghost, attend = layer.ghost[0], layer.ghost[1]
    g = squeeze_excite(last(conv_bn(p, ghost, stride=2)), attend)
    return np.concatenate([u, g])


@pytest.mark.parametrize(("width", "groups"), [(12, 6), (6, 3), (8, 2)])
@pytest.mark.parametrize("with_relu", [True, False])
def test_gd_block(width: int, groups: int, with_relu: bool) -> None:
    layer = GdBlock(6, width, relu=with_relu)
    randomise(layer)
    assert layer.ghost[0][0].weight.shape[:2] == (width // 2, 6 // groups)
    x = made(6, 6, 4)
    assert_equal(layer(x), [gd_block(p, layer, with_relu=with_relu) for p in numbers(x)])


def test_gd_module_keeps_the_width_to_its_last_step_which_has_no_relu() -> None:
    layer = gd_module(4, 12, 3)
    randomise(layer)
    x = made(4, 8, 8)
    expected = []
    for p in numbers(x):
        y = gd_block(p, layer[0], with_relu=True)
        y = gd_block(y, layer[1], with_relu=True)
        expected.append(gd_block(y, layer[2], with_relu=False))
    assert_equal(layer(x), expected)


def test_own_attention() -> None:
    """f + f * channel gate + f * spatial gate, hard sigmoids, one inner ReLU each."""
    layer = OwnAttention(8, 4)
    randomise(layer)
    squeeze, excite = (m for m in layer.channel.modules() if isinstance(m, nn.Conv2d))
    one, around = (m for m in layer.spatial if isinstance(m, nn.Conv2d))
    assert squeeze.weight.shape == (2, 8, 1, 1) and around.weight.shape == (1, 1, 3, 3)

    def hard_sigmoid(x: Maps) -> Maps:
        return np.clip(x / 6 + 0.5, 0, 1)

    x = made(8, 5, 4)
    expected = []
    for f in numbers(x):
        hidden = relu(numbers(squeeze.weight)[:, :, 0, 0] @ f.mean((1, 2)) + numbers(squeeze.bias))
        by_channel = numbers(excite.weight)[:, :, 0, 0] @ hidden + numbers(excite.bias)
        channel = f * hard_sigmoid(by_channel)[:, None, None]
        inner = relu(convolve(f, numbers(one.weight), numbers(one.bias)))
        spatial = f * hard_sigmoid(convolve(inner, numbers(around.weight), numbers(around.bias)))
        expected.append(f + channel + spatial)
    assert_equal(layer(x), expected)


def mcam(x: Maps, layer: MCAM) -> Maps:
    """Section 5.3 of the specification, group by group."""
    channels, height, _ = x.shape
    c = channels // layer.groups
    q = c // 3
    sizes = (c - 2 * q, q, q)
    groups = []
    for group in range(layer.groups):
        mine = slice(group * c, (group + 1) * c)
        part = x[mine]
        lines = np.concatenate([part.mean(2), part.mean(1)], 1)  # (c, H + W)
        coordinates = numbers(layer.coordinates.weight)[mine, :, 0, 0]
        lines = sigmoid(coordinates @ lines + numbers(layer.coordinates.bias)[mine, None])
        coord = part * lines[:, :height, None] * lines[:, None, height:]
        pieces, start = [], 0
        for n, scale in zip(sizes, layer.scales, strict=True):
            assert isinstance(scale, nn.Conv2d)
            kernels = numbers(scale.weight)[group * n : (group + 1) * n]
            bias = numbers(scale.bias)[group * n : (group + 1) * n]
            pieces.append(convolve(part[start : start + n], kernels, bias))
            start += n
        mixed = convolve(
            np.concatenate(pieces), numbers(layer.mix.weight)[mine], numbers(layer.mix.bias)[mine]
        )
        norm = nn.BatchNorm2d(c)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(layer.norm, name)[mine])
        multi = normalise(mixed, norm)
        a = np.exp(coord.mean((1, 2)))
        a /= a.sum()
        omega = sigmoid(np.einsum("c,chw->hw", a, multi))
        groups.append(part * omega)
    return np.concatenate(groups)


@pytest.mark.parametrize("channels", [32, 40, 64])  # 4, 5 and 8 to a group
def test_mcam(channels: int) -> None:
    layer = MCAM(channels, (5, 4))
    randomise(layer)
    c = channels // 8
    assert [s.kernel_size[0] for s in layer.scales] == [3, 5, 7]  # type: ignore[union-attr,index]
    assert layer.split == [c - 2 * (c // 3), c // 3, c // 3]
    x = 2 * made(channels, 5, 4)
    expected = [mcam(p, layer) for p in numbers(x)]
    assert_equal(layer(x), expected)
    assert_equal(layer.folded().eval()(x), expected)


def test_le_block() -> None:
    """Ghost with ReLUs, MCAM, Ghost without, MCAM, the identity added, ReLU."""
    block = le_block(32, (4, 4), True)
    randomise(block)
    first, one, second, two = block.body  # type: ignore[misc]
    x = made(32, 4, 4)
    expected = []
    for p in numbers(x):
        u = relu(conv_bn(p, first.intrinsic))
        y = mcam(np.concatenate([u, relu(conv_bn(u, first.ghost))]), one)
        u = conv_bn(y, second.intrinsic)
        expected.append(relu(p + mcam(np.concatenate([u, conv_bn(u, second.ghost)]), two)))
    assert first.intrinsic[0].kernel_size == (1, 1)
    assert_equal(block(x), expected)


def test_cmffm() -> None:
    """Section 5.4 of the specification: three branches into three."""
    widths, sizes = (4, 6, 8), ((8, 12), (4, 6), (2, 3))
    layer = CMFFM(widths, 3, sizes)
    randomise(layer)
    branches = [made(width, *size) for width, size in zip(widths, sizes, strict=True)]
    found = layer(branches)
    for target, row in enumerate(layer.rows):
        exchanges = dict(zip([j for j in range(3) if j != target], row.exchanges, strict=True))
        expected = []
        for picture in range(2):
            maps = [numbers(branch)[picture] for branch in branches]
            x = maps[target]
            y = x.copy()
            for source, exchange in exchanges.items():
                fc1, fc2 = exchange.weigh[0], exchange.weigh[2]
                hidden = numbers(fc1.weight)[:, :, 0, 0] @ x.mean((1, 2)) + numbers(fc1.bias)
                omega = sigmoid(numbers(fc2.weight)[:, :, 0, 0] @ relu(hidden) + numbers(fc2.bias))
                other = maps[source]
                for step in exchange.shrink:  # finer: depthwise 3x3 of stride 2, no ReLU
                    assert len(step) == 2 and step[0].groups == widths[source]
                    other = conv_bn(other, step, stride=2)
                one_map = other.mean(0)
                if source > target:  # coarser: nearest
                    times = 2 ** (source - target)
                    one_map = one_map.repeat(times, 0).repeat(times, 1)
                assert len(exchange.shrink) == max(target - source, 0)
                y += omega[:, None, None] * one_map
            both = np.stack([y.mean(0), y.max(0)])
            expected.append(relu(y * sigmoid(convolve(both, numbers(row.spatial.weight)))))
        assert row.spatial.weight.shape == (1, 2, 7, 7) and row.spatial.bias is None
        assert_equal(found[target], expected)
