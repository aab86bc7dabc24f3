"""People cut out of photos and kept on disk: posenets.training.cache."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from fakes import black_photo, encode
from made_networks import INPUT, save_constant_teacher
from posegate.types import U8
from posenets.cli import app
from posenets.training import cache
from posenets.training.augment import Augmentation, Batch, make_batch
from posenets.training.cache import CropCache, build_cache, cut_people, open_cache
from posenets.training.records import BadData, LabelledImage, StoredPhoto

STILL = Augmentation(
    flip=0, rotation=0, rotation_std=0, scale_std=0, shift=0, half_body=0, colour=0, erase=0
)
LARGE_WH = (480, 640)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.onnx"
    save_constant_teacher(path, np.full((1, 17, 64, 48), 0.5, np.float32))
    return path


@pytest.fixture
def taught(coco_folder: Path, tmp_path: Path, teacher: Path) -> Path:
    """Folder of a cache with a teacher's heatmaps."""
    build_cache(coco_folder, tmp_path / "cache", teacher=teacher)
    return tmp_path / "cache"


def test_a_cache_made_anew_without_a_teacher_has_none(coco_folder: Path, taught: Path) -> None:
    assert open_cache(taught).teacher is not None
    assert build_cache(coco_folder, taught).teacher is None
    assert open_cache(taught).teacher is None


@pytest.mark.parametrize("name", ["teacher", "joints"])
def test_arrays_of_other_lengths_are_refused(taught: Path, name: str) -> None:
    np.save(taught / f"{name}.npy", np.load(taught / f"{name}.npy")[:3])
    with pytest.raises(BadData, match=r"cache: .*its arrays hold \[3, 6\] people"):
        open_cache(taught)


@pytest.mark.parametrize("done", [0, 1])
def test_a_cache_that_was_half_made_anew_is_refused(
    coco_folder: Path, taught: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    saved: list[Path] = []

    def killed(path: Path, array: np.ndarray) -> None:
        if len(saved) == done:
            raise KeyboardInterrupt
        saved.append(path)

    monkeypatch.setattr(cache.np, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        build_cache(coco_folder, taught)
    monkeypatch.undo()
    with pytest.raises(BadData, match="cache: not a whole crop cache"):
        open_cache(taught)
    assert build_cache(coco_folder, taught).teacher is None


def test_a_cache_stays_whole_where_the_new_one_fails(
    coco_folder: Path, taught: Path, teacher: Path
) -> None:
    (coco_folder.parent / "images" / "3.png").write_bytes(b"no photo")
    with pytest.raises(BadData, match=r"3\.png"):
        build_cache(coco_folder, taught)
    kept = open_cache(taught)
    assert len(kept) == 6
    assert kept.teacher is not None
    assert not list(taught.glob("*.part"))  # as large as a cache


def _damage(**arrays: np.ndarray) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    return damage


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_write("joints.json", b"5"), "'int' object is not iterable"),
        (_write("joints.json", b"[1, 2]"), "holds other things than names"),
        (_write("joints.json", b'["nose", "tail"]'), r"joints\.npy holds float32 of \(6, 17, 3\)"),
        (_write("sources.json", b"null"), "not iterable"),
        (_write("sources.json", b"[{}, {}, {}, {}, {}, {}]"), "holds other things than names"),
        (_write("joints.npy", b"PK\x03\x04 no array"), "File is not a zip file"),
        (_damage(scores=np.zeros((6, 7), np.float32)), r"scores\.npy holds float32 of \(6, 7\)"),
        (_damage(scores=np.float32(1)), r"scores\.npy holds float32 of \(\)"),
        (_damage(joints=np.zeros((6, 17, 3))), r"joints\.npy holds float64"),
        (_damage(crops=np.zeros((6, 4), np.uint8)), r"crops\.npy holds uint8 of \(6, 4\)"),
        (_damage(crops=np.zeros((6, 320, 240, 3), np.float32)), r"crops\.npy holds float32"),
        (_damage(teacher=np.zeros((6, 3, 64, 48), np.uint8)), r"teacher\.npy holds uint8"),
    ],
)
def test_a_damaged_cache_is_named(taught: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(taught)
    with pytest.raises(BadData, match=f"cache: not a whole crop cache, make it again .*{words}"):
        open_cache(taught)


def test_a_cache_of_nobody_is_refused(taught: Path) -> None:
    for name in ("crops", "joints", "scores", "teacher"):
        np.save(taught / f"{name}.npy", np.load(taught / f"{name}.npy")[:0])
    (taught / "sources.json").write_text("[]")
    with pytest.raises(BadData, match="it holds nobody"):
        open_cache(taught)


def _save_brightness(path: Path) -> None:
    """A teacher of one joint: how bright the picture is there."""
    nodes = [
        helper.make_node("ReduceMean", [INPUT, "channels"], ["grey"], keepdims=1),
        helper.make_node("AveragePool", ["grey"], ["maps"], kernel_shape=[4, 4], strides=[4, 4]),
    ]
    shapes = {INPUT: ["n", 3, 256, 192], "maps": ["n", 1, 64, 48]}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])]
        for name in (INPUT, "maps")
    )
    channels = [numpy_helper.from_array(np.array([1], np.int64), "channels")]
    graph = helper.make_graph(nodes, "brightness", inputs, outputs, channels)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


@pytest.fixture
def both(coco_folder: Path, tmp_path: Path) -> tuple[CropCache, CropCache]:
    """The same people in crops of 240x320 and of 480x640 pixels."""
    _save_brightness(tmp_path / "brightness.onnx")
    labels = json.loads(coco_folder.read_text())
    for person in labels["annotations"]:
        del person["keypoints"][3:], person["keypoint_scores"][1:]
        person["bbox"][2] = 100.0  # slim, so that square crops are as high
    labels["categories"] = [{"id": 1, "name": "person", "keypoints": ["nose"]}]
    coco_folder.write_text(json.dumps(labels))

    def built(crop_wh: tuple[int, int]) -> CropCache:
        return build_cache(
            coco_folder,
            tmp_path / "{}x{}".format(*crop_wh),
            teacher=tmp_path / "brightness.onnx",
            joint_names=("nose",),
            crop_wh=crop_wh,
        )

    return built((240, 320)), built(LARGE_WH)


def _batch(cached: CropCache, augmentation: Augmentation) -> Batch:
    return make_batch(
        torch.from_numpy(np.array(cached.crops)),
        torch.from_numpy(cached.joints),
        torch.from_numpy(cached.scores),
        torch.from_numpy(np.array(cached.teacher)),
        size_wh=(192, 256),
        sigma=2.0,
        augmentation=augmentation,
        generator=torch.Generator().manual_seed(5),
        joint_names=cached.joint_names,
    )


def test_larger_crops_show_the_same_people_to_network_and_teacher(
    both: tuple[CropCache, CropCache],
) -> None:
    small, large = both
    assert (small.crop_wh, large.crop_wh) == ((240, 320), LARGE_WH)
    np.testing.assert_array_equal(small.joints, large.joints)
    assert small.teacher is not None
    assert large.teacher is not None
    assert np.ptp(small.teacher) > 100
    assert np.abs(small.teacher.astype(int) - large.teacher).mean() < 0.1
    x, y = np.rint(2 * large.joints[0, 0, :2] + 0.5).astype(int)
    assert np.abs(large.crops[0, y, x].astype(int) - (0, 255, 200)).max() <= 3
    for augmentation in (STILL, Augmentation(cut=0.5, colour=0, erase=0)):
        ours, theirs = _batch(small, augmentation), _batch(large, augmentation)
        assert (ours.images - theirs.images).abs().mean() < 0.3
        assert ours.images.std() > 10
        torch.testing.assert_close(ours.targets, theirs.targets)


def test_square_crops_show_the_same_and_more_at_the_sides(
    coco_folder: Path, tmp_path: Path, both: tuple[CropCache, CropCache]
) -> None:
    narrow, _ = both
    square = build_cache(
        coco_folder,
        tmp_path / "square",
        teacher=tmp_path / "brightness.onnx",
        joint_names=("nose",),
        crop_wh=(320, 320),
    )
    assert square.crops.shape[1:] == (320, 320, 3)
    np.testing.assert_array_equal(narrow.joints, square.joints)
    np.testing.assert_array_equal(narrow.teacher, square.teacher)
    np.testing.assert_array_equal(narrow.crops, square.crops[:, :, 40:-40])
    for augmentation in (STILL, Augmentation(cut=0.5, scale_std=0, shift=0, rotation=0)):
        ours, theirs = _batch(narrow, augmentation), _batch(square, augmentation)
        torch.testing.assert_close(ours.images, theirs.images, rtol=0, atol=0.01)
        torch.testing.assert_close(ours.targets, theirs.targets)
        torch.testing.assert_close(ours.teacher, theirs.teacher)
        torch.testing.assert_close(ours.teacher_seen, theirs.teacher_seen)


@pytest.mark.parametrize("box_wh", [(150, 200), (200, 200), (200, 100)])
def test_people_of_square_crops_are_as_large_as_a_square_input_shows_them(
    tmp_path: Path, box_wh: tuple[int, int]
) -> None:
    width, height = box_wh
    (tmp_path / "made.png").write_bytes(encode(black_photo()))
    image = LabelledImage(
        name="made.png",
        source="made",
        photo=StoredPhoto(tmp_path / "made.png"),
        boxes_xywh=np.array([[90, 90, width, height]], np.float32),
        box_scores=np.ones(1, np.float32),
        keypoints=np.array([[[100.0, 100, 2], [100, 150, 2]]], np.float32),
        keypoint_scores=np.ones((1, 2), np.float32),
    )
    ((_, _, joints),) = cut_people(image, np.array([True]), (320, 320))
    served = 256 / (1.25 * max(width, height))  # input pixels per pixel of the photo
    assert joints[1, 1] - joints[0, 1] == pytest.approx(50 * served, rel=1e-3)


def _crop_of(folder: Path, picture: U8, box_xywh: tuple[int, ...], crop_wh: tuple[int, int]) -> U8:
    """Whom that box holds, cut out of the picture."""
    (folder / "made.png").write_bytes(encode(picture))
    image = LabelledImage(
        name="made.png",
        source="made",
        photo=StoredPhoto(folder / "made.png"),
        boxes_xywh=np.array([box_xywh], np.float32),
        box_scores=np.ones(1, np.float32),
        keypoints=np.full((1, 1, 3), 2, np.float32),
        keypoint_scores=np.ones((1, 1), np.float32),
    )
    ((_, crop, _),) = cut_people(image, np.array([True]), crop_wh)
    return crop


@pytest.mark.parametrize("at", [100, 32_700, 39_800])
@pytest.mark.parametrize("high", [False, True])
def test_people_in_a_photo_longer_than_opencv_warps_are_cut_out_as_from_any(
    tmp_path: Path, at: int, high: bool
) -> None:
    patch = np.random.default_rng(0).integers(256, size=(100, 100, 3), dtype=np.uint8)

    def crop(length: int, start: int) -> U8:
        picture = np.zeros((length, 120, 3) if high else (120, length, 3), np.uint8)
        x, y = (10, start) if high else (start, 10)
        picture[y : y + 100, x : x + 100] = patch
        return _crop_of(tmp_path, picture, (x, y, 100, 100), (240, 320))

    np.testing.assert_array_equal(crop(40_000, at), crop(300, 100))


def test_somebody_longer_than_opencv_warps_is_cut_out(tmp_path: Path) -> None:
    picture = np.zeros((300, 40_000, 3), np.uint8)
    picture[:, 20_000:] = 200
    crop = _crop_of(tmp_path, picture, (0, 0, 40_000, 300), (480, 640))
    assert crop[:, :239].max() == 0
    assert crop[319:321, 242:390].min() == 200


def _still(crops: torch.Tensor, size_wh: tuple[int, int]) -> torch.Tensor:
    """What a network sees of crops without augmentation."""
    people = len(crops)
    points, scores = torch.zeros(people, 17, 3), torch.zeros(people, 17)
    told = {"size_wh": size_wh, "sigma": 2.0, "augmentation": STILL}
    return make_batch(crops, points, scores, None, generator=torch.Generator(), **told).images


@pytest.mark.parametrize(("crop_wh", "black"), [((240, 320), 16), ((320, 320), 0), ((640, 640), 0)])
def test_square_inputs_see_no_black_of_square_crops(crop_wh: tuple[int, int], black: int) -> None:
    crops = torch.full((1, crop_wh[1], crop_wh[0], 3), 200, dtype=torch.uint8)
    assert int((_still(crops, (256, 256)) < 100).all((0, 1, 2)).sum()) == black


def test_every_pixel_of_a_large_crop_reaches_a_large_input() -> None:
    noise = torch.Generator().manual_seed(0)
    crops = torch.randint(256, (1, LARGE_WH[1], LARGE_WH[0], 3), generator=noise).byte()
    middle = crops[:, 64:-64, 48:-48].permute(0, 3, 1, 2)[:, [2, 1, 0]].float()
    torch.testing.assert_close(_still(crops, (384, 512)), middle, rtol=0, atol=0.1)


def test_the_command_takes_a_size(coco_folder: Path, tmp_path: Path) -> None:
    def run(size: str) -> str:
        arguments = ["cache", str(coco_folder), str(tmp_path / size), "--size", size]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == (1 if result.stderr else 0)
        return result.stderr

    assert run("360x480") == ""
    assert open_cache(tmp_path / "360x480").crop_wh == (360, 480)
    assert run("320x320") == ""
    for size in ("480x400", "0x0", "100x100"):
        assert run(size).startswith(f"error: --size: {size} is no multiple of 30x40")
    assert run("large").startswith("error: --size: 'large' is not WxH")


def _with_box(labels: Path, index: int, size: tuple[float, float]) -> None:
    document = json.loads(labels.read_text())
    document["annotations"][index]["bbox"][2:] = size
    labels.write_text(json.dumps(document))


def test_people_too_small_to_learn_from_are_left_out_and_counted(
    coco_folder: Path, tmp_path: Path
) -> None:
    for index, size in enumerate([(90, 20), (20, 47), (0, 100), (-50, 100)]):
        _with_box(coco_folder, index, size)
    result = CliRunner().invoke(app, ["cache", str(coco_folder), str(tmp_path / "cache")])
    assert result.stdout.endswith("; 3 too small (--min-side)\n")
    assert len(open_cache(tmp_path / "cache")) == 3
    arguments = ["cache", str(coco_folder), str(tmp_path / "all"), "--min-side", "20"]
    result = CliRunner().invoke(app, arguments)
    assert result.stdout.endswith("; 2 too small (--min-side)\n"), "these have no sides at all"


def test_a_photo_of_several_people_is_decoded_once(
    coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = json.loads(coco_folder.read_text())
    first = labels["annotations"][0]
    more = [first | {"id": 100 + n, "bbox": [n, 2, 30, 60]} for n in range(4)]
    labels["annotations"] += more
    coco_folder.write_text(json.dumps(labels))
    decoded: list[str] = []
    pixels_bgr = StoredPhoto.pixels_bgr

    def counted(photo: StoredPhoto) -> U8:
        decoded.append(photo.path.name)
        return pixels_bgr(photo)

    monkeypatch.setattr(StoredPhoto, "pixels_bgr", counted)
    cached = build_cache(coco_folder, tmp_path / "cache")
    assert len(cached) == len(labels["annotations"])
    assert sorted(decoded) == sorted(image["file_name"] for image in labels["images"])


@pytest.mark.parametrize(("full_at", "named"), [(1, "crops"), (2, "teacher")])
def test_a_full_disk_is_told_and_nothing_stays_on_it(
    coco_folder: Path,
    taught: Path,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_at: int,
    named: str,
) -> None:
    asked: list[int] = []

    def allocate(handle: int, offset: int, size: int) -> None:
        asked.append(size)
        if len(asked) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", allocate)
    with pytest.raises(
        BadData, match=rf"{named}\.npy\.part: No space left on device; the cache takes 0\.0"
    ):
        build_cache(coco_folder, taught, teacher=teacher)
    assert asked[0] > 6 * 240 * 320 * 3
    assert not list(taught.glob("*.part"))
    assert len(open_cache(taught)) == 6
