"""joints.mat of LSP and LSP-extended -> records: posenets.training.lsp."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from posenets.training.lsp import LSP_KEYPOINTS, read_lsp
from posenets.training.records import BadData

PEOPLE = 3


@pytest.fixture
def joints() -> np.ndarray:
    """(N, 14, 3): places from 1; the third value differs among the joints."""
    made = np.random.default_rng(0).uniform(20, 120, (PEOPLE, 14, 3)).round()
    made[..., 2] = np.arange(14) % 3 > 0
    return made


def write(folder: Path, joints: np.ndarray, axes: tuple[int, int, int], digits: int) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for index in range(PEOPLE):
        (folder / "images" / f"im{index + 1:0{digits}}.jpg").write_bytes(b"photo")
    savemat(folder / "joints.mat", {"joints": joints.transpose(axes)})
    return folder / "joints.mat"


def test_lsp_counts_hidden_joints_too(tmp_path: Path, joints: np.ndarray) -> None:
    images = list(read_lsp(write(tmp_path, joints, (2, 1, 0), 4)))
    assert [image.name for image in images] == ["im0001.jpg", "im0002.jpg", "im0003.jpg"]
    for image, made in zip(images, joints, strict=True):
        np.testing.assert_array_equal(image.keypoints[0, :, :2], made[:, :2] - 1)
        assert (image.keypoints[0, :, 2] == 2).all()
        assert (image.source, image.joint_names) == ("lsp", LSP_KEYPOINTS)


def test_the_extension_leaves_out_what_could_not_be_placed(
    tmp_path: Path, joints: np.ndarray
) -> None:
    image = list(read_lsp(write(tmp_path, joints, (1, 2, 0), 5)))[1]
    shown = joints[1, :, 2] > 0
    assert (image.name, image.source) == ("im00002.jpg", "lspet")
    np.testing.assert_array_equal(image.keypoints[0, :, 2], 2 * shown)
    np.testing.assert_array_equal(image.keypoints[0, ~shown], 0)


def test_the_box_holds_the_joints_with_a_margin(tmp_path: Path, joints: np.ndarray) -> None:
    image = next(read_lsp(write(tmp_path, joints, (2, 1, 0), 4)))
    x, y, width, height = image.boxes_xywh[0]
    low, high = joints[0, :, :2].min(0) - 1, joints[0, :, :2].max(0) - 1
    margin = 0.1 * (high - low).max()
    np.testing.assert_allclose([x, y], low - margin, rtol=1e-5)
    np.testing.assert_allclose([x + width, y + height], high + margin, rtol=1e-5)


def test_a_photo_without_joints_holds_nobody(tmp_path: Path, joints: np.ndarray) -> None:
    joints[0, :, 2] = 0
    image = next(read_lsp(write(tmp_path, joints, (1, 2, 0), 5)))
    assert (image.boxes_xywh.shape, image.keypoints.shape) == ((0, 4), (0, 14, 3))


def test_bad_files_name_what_is_wrong(tmp_path: Path, joints: np.ndarray) -> None:
    labels = write(tmp_path, joints, (2, 1, 0), 4)
    (tmp_path / "images" / "im0002.jpg").unlink()
    with pytest.raises(BadData, match=r"im0002\.jpg is missing"):
        list(read_lsp(labels))
    joints[0, 0, 0] = np.nan
    with pytest.raises(BadData, match=r"im0001\.jpg: joints holds NaN"):
        list(read_lsp(write(tmp_path, joints, (2, 1, 0), 4)))
    with pytest.raises(BadData, match=r"\(3, 3, 14\), not"):
        list(read_lsp(write(tmp_path, joints, (0, 2, 1), 4)))
    labels.write_bytes(b"cut")
    with pytest.raises(BadData, match="not a MATLAB file"):
        list(read_lsp(labels))
    savemat(labels, {"joints": "text"})
    with pytest.raises(BadData, match=r"joints is not \(3, 14, N\) or \(14, 3, N\) numbers"):
        list(read_lsp(labels))
    savemat(labels, {"other": [1]})
    with pytest.raises(BadData, match="joints is missing"):
        list(read_lsp(labels))
