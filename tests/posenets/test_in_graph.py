"""Decoding in the graph: a fraction of the bytes, the same keypoints."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from fakes import MADE_JOINTS_CROP, POSE_NAME, gaussian_heatmaps, make_repository
from posegate.card import PEAK_ROW, HeatmapSpec
from posegate.catalog import load_catalog
from posegate.codecs import make_codec
from posegate.errors import BadCard, BadOption
from posenets.export import in_graph, in_place
from posenets.export.in_graph import append_decode, export_decoded, write_decoded

DECODES = ("dark", "quarter", "argmax")
JOINTS = 3


def spec(sigma: float = 2.0, width: int = 48, height: int = 64) -> HeatmapSpec:
    return HeatmapSpec(kind="heatmap", width=width, height=height, sigma=sigma)


def passing_through(codec: HeatmapSpec, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A network whose heatmaps are its input."""
    shape = ["n", JOINTS, codec.height, codec.width]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["heatmaps"])],
        "passing_through",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info("heatmaps", kind, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def rows_of(codec: HeatmapSpec, maps: np.ndarray) -> np.ndarray:
    kind = helper.np_dtype_to_tensor_dtype(maps.dtype)
    network = append_decode(passing_through(codec, kind), codec, joints=JOINTS)
    session = ort.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["decoded"], {"input": maps})[0]


def both_ways(codec: HeatmapSpec, maps: np.ndarray, decode: str):
    """Keypoints from whole maps and from the graph's rows."""
    numbers = codec.model_dump()
    crop_wh = (codec.width * 4, codec.height * 4)
    whole = make_codec(**numbers, crop_wh=crop_wh, decode=decode)
    peaks = make_codec(**numbers | {"form": "peaks"}, crop_wh=crop_wh, decode=decode)
    return whole.decode((maps,)), peaks.decode((rows_of(codec, maps),))


def drawn(codec: HeatmapSpec, *, noise: float) -> np.ndarray:
    """(P, 3, h, w): Gaussians all over the map, its borders and corners and just outside."""
    random = np.random.default_rng(5)
    size = np.array([codec.width, codec.height])
    edges = [(x, y) for x in (0, 1, 2, size[0] - 3, size[0] - 1) for y in (0, 1, size[1] - 2)]
    places = np.concatenate([random.uniform(-2, size + 1, (60, 2)), edges]).astype(np.float32)
    maps = gaussian_heatmaps(places, size_wh=(size[0], size[1]), sigma=codec.sigma)
    maps += noise * random.standard_normal(maps.shape).astype(np.float32)
    return maps.reshape(-1, JOINTS, size[1], size[0])


@pytest.mark.parametrize("decode", DECODES)
@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0])  # reaches below, at and over the patch's
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_keypoints_are_those_of_whole_maps(decode: str, sigma: float, noise: float):
    whole, peaks = both_ways(spec(sigma), drawn(spec(sigma), noise=noise), decode)
    np.testing.assert_allclose(peaks.xy, whole.xy, rtol=0, atol=0.01)
    np.testing.assert_allclose(peaks.scores, whole.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decode", DECODES)
def test_maps_of_any_size(decode: str):
    small = spec(1.5, width=12, height=7)
    whole, peaks = both_ways(small, drawn(small, noise=0.02), decode)
    np.testing.assert_allclose(peaks.xy, whole.xy, rtol=0, atol=0.01)


# what the map holds everywhere; the last has one value that is not a number
@pytest.mark.parametrize("content", [0.0, 0.7, -1.0, "nan"])
@pytest.mark.parametrize("decode", DECODES)
def test_maps_without_a_peak(decode: str, content):
    maps = np.full((2, JOINTS, 64, 48), 0.0 if content == "nan" else content, np.float32)
    if content == "nan":
        maps[:, :, 20, 30], maps[:, :, 10, 10] = np.nan, 0.5
    whole, peaks = both_ways(spec(), maps, decode)
    np.testing.assert_array_equal(peaks.xy, whole.xy)
    np.testing.assert_array_equal(peaks.scores, whole.scores)
    assert not peaks.scores.any()


# what one pixel off the peak holds, and by how much all is multiplied
@pytest.mark.parametrize(("odd", "times"), [(-np.inf, 1.0), (0.0, 3e38)])
@pytest.mark.parametrize("decode", DECODES)
def test_a_peak_in_a_map_without_a_finite_sum(decode: str, odd: float, times: float):
    maps = np.full((1, JOINTS, 64, 48), 0.5, np.float32)
    maps[:, :, 40, 20], maps[:, :, 5, 5] = 1.0, odd
    maps *= np.float32(times)
    whole, peaks = both_ways(spec(), maps, decode)
    assert whole.scores.min() == 1
    np.testing.assert_array_equal(peaks.xy, whole.xy)
    np.testing.assert_array_equal(peaks.scores, whole.scores)


def test_a_peak_in_the_first_pixel_is_no_flat_map():
    maps = np.zeros((1, JOINTS, 64, 48), np.float32)
    maps[:, :, 0, 0] = 0.8
    whole, peaks = both_ways(spec(), maps, "dark")
    np.testing.assert_array_equal(peaks.xy, whole.xy)
    assert peaks.scores.min() > 0.7


def test_half_precision_maps_are_read():
    maps = drawn(spec(), noise=0.0)
    whole, _ = both_ways(spec(), maps, "dark")
    peaks = make_codec(
        **spec().model_dump() | {"form": "peaks"}, crop_wh=(192, 256), decode="dark"
    ).decode((rows_of(spec(), maps.astype(np.float16)),))
    inside = (whole.xy > 8).all(-1) & (whole.xy < (180, 240)).all(-1)
    np.testing.assert_allclose(peaks.xy[inside], whole.xy[inside], rtol=0, atol=0.05)


def test_a_twentieth_of_the_bytes_leaves_the_graph():
    maps = drawn(spec(), noise=0.0)
    rows = rows_of(spec(), maps)
    assert rows.shape == (*maps.shape[:2], PEAK_ROW)
    assert rows.nbytes * 20 <= maps.nbytes


def test_flipping_peaks_is_refused():
    codec = make_codec(**spec().model_dump() | {"form": "peaks"}, crop_wh=(192, 256))
    with pytest.raises(BadOption, match="flip_test"):
        codec.flip((np.zeros((1, JOINTS, PEAK_ROW), np.float32),), np.arange(JOINTS))


def test_a_repository_gets_its_variants(tmp_path: Path):
    repository = make_repository(tmp_path)
    (path,) = export_decoded(repository)
    model = load_catalog(repository).models[POSE_NAME]
    assert model.decoded is not None
    assert model.decoded.onnx_path == path
    assert f'name: "{POSE_NAME}-decoded"' in (path.parents[1] / "config.pbtxt").read_text()
    assert list(load_catalog(repository).models) == ["made-detector", POSE_NAME]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = session.run(["decoded"], {"input": np.zeros((5, 3, 64, 48), np.float32)})
    numbers = model.decoded.card.codec.model_dump()
    codec = make_codec(**numbers, crop_wh=(48, 64), decode="argmax")
    np.testing.assert_array_equal(codec.decode(rows).xy[4], MADE_JOINTS_CROP)


def test_a_variant_that_is_missing_or_another_is_refused(tmp_path: Path):
    repository = make_repository(tmp_path)
    path = write_decoded(load_catalog(repository).models[POSE_NAME])
    path.write_bytes(b"another")
    with pytest.raises(BadCard, match=hashlib.sha256(b"another").hexdigest()):
        load_catalog(repository)
    path.unlink()
    with pytest.raises(BadCard, match=f"{POSE_NAME}-decoded"):
        load_catalog(repository)


def test_the_base_network_and_the_rest_of_its_card_stay(tmp_path: Path):
    repository = make_repository(tmp_path)
    card_path = repository / POSE_NAME / "posegate.json"
    before = json.loads(card_path.read_text())
    export_decoded(repository)
    after = json.loads(card_path.read_text())
    assert after.pop("decoded").keys() == {"sha256"}
    assert after == before


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Ends a module's work when the new file is in its place and the new card is not."""

    def stop(model: Any) -> None:
        raise KeyboardInterrupt

    return lambda module: monkeypatch.setattr(module, "write_config", stop)


def test_crash_between_variant_and_card_leaves_the_network_without_variant(
    tmp_path: Path, crash: Callable[[Any], None]
) -> None:
    repository = make_repository(tmp_path)
    export_decoded(repository)
    card_path = repository / POSE_NAME / "posegate.json"
    card = json.loads(card_path.read_text())
    card["codec"]["sigma"] = 3.0  # so that the variant becomes another
    card_path.write_text(json.dumps(card))
    crash(in_graph)
    with pytest.raises(KeyboardInterrupt):
        export_decoded(repository)
    assert load_catalog(repository).models[POSE_NAME].decoded is None


def test_crash_between_file_and_card_leaves_the_other_networks(
    tmp_path: Path, crash: Callable[[Any], None]
) -> None:
    repository = make_repository(tmp_path)
    folder = repository / POSE_NAME
    card = json.loads((folder / "posegate.json").read_text())
    part = in_place.part_of(folder / "1" / "model.onnx")
    part.write_bytes(b"another")
    crash(in_place)
    with pytest.raises(KeyboardInterrupt):
        in_place.put_in_place(
            part, folder, card | {"sha256": hashlib.sha256(b"another").hexdigest()}
        )
    assert list(load_catalog(repository).models) == ["made-detector"]


def test_an_exchange_after_one_that_was_cut_short_keeps_the_default(
    tmp_path: Path, crash: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_repository(tmp_path) / POSE_NAME
    path = folder / "posegate.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"default": True}))
    weights = folder / "training.pt"
    weights.write_bytes(b"former")
    for content in (b"second", b"third"):
        part = in_place.part_of(folder / "1" / "model.onnx")
        part.write_bytes(content)
        (folder / "next").write_bytes(content)
        new = card | {"sha256": hashlib.sha256(content).hexdigest()}
        with monkeypatch.context() as stopped:
            if content == b"second":
                stopped.setattr(in_place, "write_config", _interrupted)
                with pytest.raises(KeyboardInterrupt):
                    in_place.put_in_place(part, folder, new, others={folder / "next": weights})
                assert not path.exists()
            else:
                stopped.setattr(in_place, "write_config", lambda _: None)
                in_place.put_in_place(part, folder, new, others={folder / "next": weights})
    assert json.loads(path.read_text()) == new | {"default": True}
    assert weights.read_bytes() == b"third"
    assert sorted(one.name for one in folder.iterdir()) == ["1", "posegate.json", "training.pt"]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_constants_that_are_inputs_too_are_taken() -> None:
    """As ONNX had it until its version 3, and older exporters still write."""
    codec = spec()
    network = passing_through(codec)
    network.ir_version = 3
    appended = append_decode(network, codec, joints=JOINTS)
    onnx.checker.check_model(appended, full_check=True)
    ort.InferenceSession(appended.SerializeToString(), providers=["CPUExecutionProvider"])


def test_figures_of_the_same_file_are_kept(tmp_path: Path) -> None:
    folder = make_repository(tmp_path) / POSE_NAME
    card = json.loads((folder / "posegate.json").read_text())
    part = in_place.part_of(folder / "1" / "model.onnx")
    part.write_bytes((folder / "1" / "model.onnx").read_bytes())
    in_place.put_in_place(part, folder, {key: card[key] for key in card if key != "accuracy"})
    assert json.loads((folder / "posegate.json").read_text()) == card
    assert not part.exists()
