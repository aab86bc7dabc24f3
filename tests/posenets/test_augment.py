from pathlib import Path

import numpy as np
import pytest
import torch

from posenets.training.augment import Augmentation, Batch, make_batch
from posenets.training.cache import CROP_WH, TEACHER_SHIFT, build_cache

STILL = Augmentation(
    flip=0, rotation=0, rotation_std=0, scale_std=0, shift=0, half_body=0, colour=0, erase=0
)
INPUT_WH = (192, 256)


def _one_dot(joint: int, x: float, y: float) -> tuple[torch.Tensor, torch.Tensor]:
    crops = torch.zeros(1, CROP_WH[1], CROP_WH[0], 3, dtype=torch.uint8)
    crops[0, round(y), round(x)] = 255
    joints = torch.zeros(1, 17, 3)
    joints[0, joint] = torch.tensor([x, y, 2.0])
    return crops, joints


def _batch(crops: torch.Tensor, joints: torch.Tensor, augmentation: Augmentation) -> Batch:
    teacher = torch.zeros(1, 17, 64, 48, dtype=torch.uint8)
    seen = joints[0, :, 2] > 0
    for joint in torch.nonzero(seen).flatten().tolist():
        column = (joints[0, joint, 0] - TEACHER_SHIFT[0]) / 4
        row = (joints[0, joint, 1] - TEACHER_SHIFT[1]) / 4
        teacher[0, joint, int(row), int(column)] = 255
    return make_batch(
        crops,
        joints,
        torch.ones(1, 17),
        teacher,
        size_wh=INPUT_WH,
        sigma=2.0,
        augmentation=augmentation,
        generator=torch.Generator().manual_seed(3),
    )


def _peak(map_hw: torch.Tensor) -> tuple[int, int]:
    index = int(map_hw.argmax())
    return index % map_hw.shape[1], index // map_hw.shape[1]


def test_without_augmentation_the_inner_crop_is_copied() -> None:
    crops, joints = _one_dot(9, 24 + 80, 32 + 120)
    batch = _batch(crops, joints, STILL)
    assert _peak(batch.images[0, 0]) == (80, 120)
    assert batch.images[0, 0, 120, 80] == pytest.approx(255, abs=1e-2)
    assert _peak(batch.targets[0, 9]) == (20, 30)
    assert batch.targets[0, 9, 30, 20] == pytest.approx(1, abs=1e-4)
    assert batch.weights[0].nonzero().flatten().tolist() == [9]


@pytest.mark.parametrize(
    ("name", "augmentation"),
    [
        ("mirrored", Augmentation(1.0, 0, 0, 0, 0, 0, 0, 0)),
        ("turned", Augmentation(0, 40.0, 1.0, 0, 0, 0, 0, 0)),
        ("scaled", Augmentation(0, 0, 0, 0.3, 0, 0, 0, 0)),
        ("shifted", Augmentation(0, 0, 0, 0, 0.2, 0, 0, 0)),
        ("all", Augmentation(1.0, 30.0, 1.0, 0.2, 0.1, 0, 0, 0)),
    ],
)
def test_picture_target_and_teacher_move_together(name: str, augmentation: Augmentation) -> None:
    crops, joints = _one_dot(9, 24 + 100, 32 + 116)
    crops[0, 146:151, 122:127] = 255
    batch = _batch(crops, joints, augmentation)
    mirrored = 10 if augmentation.flip else 9
    assert batch.teacher is not None
    dot = np.array(_peak(torch.nn.functional.avg_pool2d(batch.images[:1, :1], 5, 1, 2)[0, 0]))
    target = np.array(_peak(batch.targets[0, mirrored])) * 4
    teacher = np.array(_peak(batch.teacher[0, mirrored])) * 4
    assert np.abs(dot - target).max() <= 4, name
    assert np.abs(target - teacher).max() <= 6, name
    assert batch.weights[0].nonzero().flatten().tolist() == [mirrored]


def test_joint_outside_the_input_has_no_weight() -> None:
    crops, joints = _one_dot(5, 10, 100)
    assert _batch(crops, joints, STILL).weights.sum() == 0


def test_cache_keeps_every_labelled_joint_on_its_dot(coco_folder: Path, tmp_path: Path) -> None:
    cache = build_cache(coco_folder, tmp_path / "cache")
    assert len(cache) == 6
    assert set(cache.sources) == {"left", "right"}
    for person in range(len(cache)):
        for joint in range(17):
            x, y = np.rint(cache.joints[person, joint, :2]).astype(int)
            expected = (15 * joint, 255 - 15 * joint, 200)
            assert np.abs(cache.crops[person, y, x].astype(int) - expected).max() <= 3
