"""Every network of the table: size, cost, shape, gradients, and ONNX equal to torch."""

import io
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from made_norms import randomise_norms
from posenets.counting import count_all, count_network, count_operations, table_rows
from posenets.networks import NETWORKS, build_network
from posenets.networks.blocks import Residual, basic_block, bottleneck, weaken_residuals
from posenets.networks.folding import drop_unread_branches, fold_for_export
from posenets.networks.gadnet import ga_block
from posenets.networks.goatpose import lite_bottleneck
from posenets.networks.high_resolution import HighResolutionNet
from posenets.networks.le_hrnet import le_block
from posenets.networks.litedeconv import Attention, LiteDeconvNumbers, LiteDeconvPose
from posenets.networks.mcam import MCAM
from posenets.networks.mobilenetv3 import SMALL
from posenets.networks.nam import NamChannel, nam_scales

PARAMETERS = {
    "hrnet-w32": 28_536_113,
    "hrnet-w48": 63_595_745,
    "hrnet-w16-small": 1_284_961,
    "nam-hrnet": 28_540_977,
    "goatpose-bl": 15_564_497,
    "goatpose-xl": 34_907_825,
    "gadnet-w32": 10_900_687,
    "gadnet-w48": 24_003_323,
    "litedeconv": 3_077_882,
    "litedeconv-mpii": 3_077_625,
    "le-hrnet": 5_516_293,
    "le-hrnet-no-cmffm": 6_544_369,
    "le-hrnet-no-mcam-no-cmffm": 5_248_497,
}

GFLOPS = {
    # as reached in the specification, in the table's convention
    "hrnet-w32": 7.120,
    "hrnet-w32-384x288": 16.02,
    "hrnet-w48": 14.61,
    "hrnet-w48-384x288": 32.88,
    "hrnet-w16-small": 0.537,
    "hrnet-w16-small-384x288": 1.209,
    "nam-hrnet": 7.12,
    "goatpose-bl": 3.485,
    "goatpose-bh": 7.842,
    "goatpose-xl": 7.791,
    "goatpose-xh": 17.530,
    "gadnet-w32": 2.817,
    "gadnet-w48": 5.200,
    "gadnet-ablation-ghost": 4.42,
    "gadnet-ablation-ghost-se": 4.42,
    "litedeconv": 0.580,
    "litedeconv-384x288": 1.303,
    "litedeconv-mpii": 0.772,
    "litedeconv-none": 0.578,
    "litedeconv-small": 0.368,
    "simple-mobilenetv3": 1.466,
    "simple-mobilenetv2": 1.587,
    "simple-mobilenetv2-384x288": 3.571,
    "simple-shufflenetv2": 1.371,
    "simple-shufflenetv2-384x288": 3.085,
    "simple-resnet50": 5.46,
    "le-hrnet": 1.523,
    "le-hrnet-no-cmffm": 1.983,
    "le-hrnet-no-mcam-no-cmffm": 1.631,
    "lite-hrnet-18": 0.20,
    "lite-hrnet-30": 0.31,
}

MILLIONS = {
    # known to the digits printed
    "posefpn-small": 1.029,
    "gadnet-ablation-ghost": 15.94,
    "gadnet-ablation-ghost-se": 16.13,
    "litedeconv-none": 3.045,
    "litedeconv-small": 1.260,
    "simple-mobilenetv3": 8.670,
    "simple-mobilenetv2": 9.570,
    "simple-shufflenetv2": 7.551,
    "simple-resnet50": 34.00,
    "lite-hrnet-18": 1.13,
    "lite-hrnet-30": 1.76,
}

QUICK = ("posefpn-small", "hrnet-w16-small", "litedeconv", "litedeconv-cbam", "simple-shufflenetv2")
"""Covered by every run; the others take seconds to half a minute each and are marked slow."""

OTHER_INPUTS = ("-384x288", "-mpii", "goatpose-bh", "goatpose-xh")
"""The same layers as another row of the table."""

EACH = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in NETWORKS
    if not name.endswith(OTHER_INPUTS)
]

SIZE_WH = (64, 64)


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def test_operations_are_counted_by_kind_of_layer() -> None:
    operations = count_operations(build_network("litedeconv"), (192, 256))
    assert asdict(operations) == {
        "macs": 558_997_088,
        "bias_outputs": 1_095_590,
        "norm_outputs": 6_895_104,
        "relu_outputs": 4_667_374,
        "pooled_inputs": 1_454_592,
    }
    assert operations.gflops("M") * 1e9 == 558_997_088 + 1_095_590 + 2 * 6_895_104 + (
        4_667_374 + 1_454_592
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_operations_are_the_specified_ones(name: str) -> None:
    count = count_network(name)

    if name in PARAMETERS:
        assert count.params == PARAMETERS[name]
    if name in MILLIONS:
        assert count.params / 1e6 == pytest.approx(MILLIONS[name], abs=0.005)
    if name in GFLOPS:
        assert count.gflops == pytest.approx(GFLOPS[name], rel=0.01)
    if count.paper_params:
        assert count.params == pytest.approx(count.paper_params, rel=0.03)


def test_every_network_of_the_table_is_asserted() -> None:
    shared = {name.removesuffix("-384x288") for name in NETWORKS} - {"goatpose-bh", "goatpose-xh"}
    known = PARAMETERS.keys() | MILLIONS.keys()

    assert shared - known == {"litedeconv-se", "litedeconv-cbam"}, "the paper gives no size"


def test_unknown_network_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"'nosuch'.*litedeconv"):
        build_network("nosuch")


def test_count_table_has_a_row_and_an_object_per_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posenets.counting.NETWORKS", {k: NETWORKS[k] for k in QUICK})

    counts = count_all()

    assert [row["network"] for row in table_rows(counts)] == list(QUICK)
    required = {"name", "params", "gflops", "convention", "paper_params", "paper_gflops"}
    assert all(required <= count.as_json().keys() for count in counts)


def test_transposed_convolution_is_counted_at_its_inputs() -> None:
    layer = nn.ConvTranspose2d(3, 5, 4, 2, 1)

    # 8 x 6 input positions, 4 x 4 taps, 3 x 5 channels; 5 x 16 x 12 outputs get a bias
    operations = count_operations(layer, (6, 8))

    assert operations.macs == 48 * 16 * 15
    assert operations.bias_outputs == 5 * 16 * 12


@pytest.mark.parametrize("name", EACH)
def test_heatmaps_have_a_quarter_of_the_size_and_gradients_reach_all_that_is_read(
    name: str,
) -> None:
    network = build_network(name, joints=14, size_wh=SIZE_WH)

    heatmaps = network(torch.randn(2, 3, 64, 64))
    heatmaps.square().mean().backward()

    assert heatmaps.shape == (2, 14, 16, 16)
    before = {name for name, _ in network.named_parameters()}
    if isinstance(network, HighResolutionNet):
        drop_unread_branches(network)
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []
    assert before >= {name for name, _ in network.named_parameters()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the tracing exporter is the old one
@pytest.mark.parametrize("name", [each for each in EACH if "le-hrnet-no-cmffm" not in each.values])
def test_onnx_equals_torch_at_any_batch(name: str) -> None:
    # LE-HRNet without CMFFM has no layer that the other two forms have not, and takes a minute.
    network = build_network(name, size_wh=SIZE_WH).eval()
    randomise_norms(network)
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        want = network(images).numpy()

    model = export(fold_for_export(network), images[:1])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    bound = 1e-4 * (want.max() - want.min())
    for batch in (1, 3):
        (got,) = session.run(None, {"input": images[:batch].numpy()})
        assert got.shape == (batch, 17, 16, 16)
        np.testing.assert_allclose(got, want[:batch], rtol=0, atol=bound)
    operators = {node.op_type for node in onnx.load_from_string(model).graph.node}
    assert not operators & {"Shape", "Loop", "If", "Abs"}, "run-time arithmetic was left over"


def test_folded_attention_gives_the_same_maps() -> None:
    # 4 channels in a group go 2, 1, 1 to the three kernels; 10 go 4, 3, 3
    for channels in (32, 80):
        mcam = MCAM(channels, (6, 4)).eval()
        nam = NamChannel(channels).eval()
        for module in (mcam, nam):
            nn.init.uniform_(module.norm.weight, -1, 1)
            nn.init.normal_(module.norm.bias)
            module.norm.running_var.uniform_(0.5, 2)
        x = torch.randn(2, channels, 6, 4)

        torch.testing.assert_close(mcam.folded()(x), mcam(x))
        torch.testing.assert_close(nam.folded()(x), nam(x))


@pytest.mark.parametrize("attention", ["own", "se", "cbam", "none"])
def test_folded_deconvolutions_give_the_same_heatmaps(attention: Attention) -> None:
    numbers = LiteDeconvNumbers(backbone=SMALL, width=16, attention=attention)
    network = LiteDeconvPose(5, numbers)
    nn.init.normal_(network.last.weight)
    for module in network.attention.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias) if module.bias is not None else None
    randomise_norms(network)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = network.eval()(images)
        folded = fold_for_export(network)(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4)


def test_nam_gate_is_a_half_when_all_scales_are_zero() -> None:
    nam = NamChannel(8)
    nn.init.zeros_(nam.norm.weight)
    x = torch.randn(2, 8, 3, 3)

    torch.testing.assert_close(nam(x), x / 2)


@pytest.mark.parametrize(("name", "attentions"), [("goatpose-bl", 26), ("litedeconv", 0)])
def test_sparsity_penalty_sees_every_nam(name: str, attentions: int) -> None:
    with torch.device("meta"):
        assert len(nam_scales(build_network(name))) == attentions


@pytest.mark.parametrize(
    "block",
    [
        basic_block(16),
        bottleneck(32, 8),
        ga_block(16),
        lite_bottleneck(32, 8),
        le_block(32, (8, 8), mcam=True),
    ],
    ids=["basic", "bottleneck", "ga", "lite-bottleneck", "le"],
)
def test_weakened_branch_gives_its_share(block: Residual) -> None:
    x = torch.randn(4, next(block.parameters()).shape[1], 8, 8)
    with torch.no_grad():
        whole = block.body(x)
        weaken_residuals(block, 0.1)
        weak = block.body(x)
    assert float(weak.std() / whole.std()) == pytest.approx(0.1, rel=0.03)


def export(network: nn.Module, images: Tensor) -> bytes:
    """The network as an ONNX file with a free batch."""
    file = io.BytesIO()
    torch.onnx.export(
        network,
        (images,),
        file,
        opset_version=17,
        dynamo=False,
        input_names=["input"],
        output_names=["heatmaps"],
        dynamic_axes={"input": {0: "n"}, "heatmaps": {0: "n"}},
    )
    return file.getvalue()
