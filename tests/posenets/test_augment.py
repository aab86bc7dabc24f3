import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from made_networks import save_constant_teacher
from posenets.training.augment import (
    Augmentation,
    Batch,
    _draw_affine,
    _half_body,
    make_batch,
)
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


def test_cut_person_keeps_only_joints_that_are_still_in_the_picture() -> None:
    people = 24
    crops = torch.full((people, CROP_WH[1], CROP_WH[0], 3), 255, dtype=torch.uint8)
    joints = torch.zeros(people, 17, 3)
    for joint in range(17):
        x, y = 60 + 30 * (joint % 5), 60 + 50 * (joint // 5)
        joints[:, joint] = torch.tensor([x, y, 2.0])
    batch = make_batch(
        crops,
        joints,
        torch.ones(people, 17),
        torch.full((people, 17, 64, 48), 255, dtype=torch.uint8),
        size_wh=INPUT_WH,
        sigma=2.0,
        augmentation=replace(STILL, cut=1.0),
        generator=torch.Generator().manual_seed(1),
    )
    kept = batch.weights.sum(1)
    cut = kept < 17
    assert cut.sum() > people / 2
    assert (kept[cut] >= 4).all()
    assert batch.teacher_seen is not None
    for person in torch.nonzero(cut).flatten().tolist():
        picture = batch.images[person, 0]
        assert (picture < 1).any(), "nothing was cut off"
        for joint in torch.nonzero(batch.weights[person]).flatten().tolist():
            x, y = _peak(batch.targets[person, joint])
            assert picture[4 * y, 4 * x] > 100
        black = torch.nn.functional.max_pool2d(picture[None], 8, 4, 3)[0] < 1
        assert (batch.teacher_seen[person, 0][black] == 0).all(), "a teacher saw what was cut off"


def _drawn(
    augmentation: Augmentation, people: int = 4000
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale and angle of each person's affine, for six or twelve joints in turn; the mirrored."""
    joints = torch.full((people, 17, 3), 2.0)
    joints[:, :, :2] = torch.rand(people, 17, 2, generator=torch.Generator().manual_seed(1)) * 100
    joints[::2, 6:, 2] = 0
    corner = torch.tensor([0.0, 0, *CROP_WH]).repeat(people, 1)
    affine, flipped = _draw_affine(
        joints,
        torch.arange(17) >= 11,
        corner,
        torch.zeros(people, dtype=torch.bool),
        INPUT_WH,
        augmentation,
        torch.Generator().manual_seed(0),
    )
    cos, sin = affine[:, 1, 1], -affine[:, 0, 1]
    return torch.hypot(cos, sin), torch.atan2(sin, cos).rad2deg(), flipped


def test_scales_and_angles_are_drawn_as_hrnet_draws_them() -> None:
    strengths = replace(STILL, rotation=0.6, rotation_std=30.0, scale_std=0.35, linear_scale=True)
    still, _, _ = _drawn(STILL)
    scale, angle, _ = _drawn(strengths)
    factor = scale / still
    assert (factor.min().item(), factor.max().item()) == pytest.approx((0.65, 1.35), abs=1e-4)
    assert ((factor - 1).abs() < 0.3499).float().mean().item() == pytest.approx(0.68, abs=0.03)
    assert angle.abs().max().item() == pytest.approx(60.0, abs=1e-3)
    assert (angle != 0).float().mean().item() == pytest.approx(0.6, abs=0.03)


def test_scales_may_be_powers() -> None:
    factor = _drawn(replace(STILL, scale_std=0.25))[0] / _drawn(STILL)[0]
    reach = float(np.exp(2 * 0.25))
    assert (factor.min().item(), factor.max().item()) == pytest.approx((1 / reach, reach), rel=1e-4)
    assert factor.log().mean().item() == pytest.approx(0, abs=0.02)


def test_half_bodies_are_taken_of_people_with_more_than_eight_joints() -> None:
    plain, half = (_drawn(replace(STILL, half_body=share))[0] for share in (0.0, 0.3))
    changed = (plain - half).abs() > 1e-6
    assert not changed[::2].any()
    assert changed[1::2].float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_half_bodies_are_centred_on_the_mean_of_their_joints() -> None:
    """As in HRNet's code: five joints of the head weigh more than two wrists."""
    joints = torch.full((200, 17, 3), 2.0)
    joints[:, :, :2] = torch.rand(17, 2, generator=torch.Generator().manual_seed(1)) * 100 + 60
    lower = torch.arange(17) >= 11
    centre, _, possible = _half_body(joints, lower, torch.Generator().manual_seed(0))
    assert possible.all()
    upper, legs = joints[0, :11, :2].mean(0), joints[0, 11:, :2].mean(0)
    is_upper = (centre - upper).abs().amax(1) < 1e-3
    is_lower = (centre - legs).abs().amax(1) < 1e-3
    assert (is_upper | is_lower).all()
    assert 0.6 < is_upper.float().mean() < 0.8
    joints[:, 11:, 2] = 0  # no legs: the upper half it is
    centre, _, possible = _half_body(joints, lower, torch.Generator().manual_seed(0))
    assert possible.all()
    assert ((centre - upper).abs() < 1e-3).all()


# joints seen of the upper and of the lower body, whether half a body is taken, and only the upper
@pytest.mark.parametrize(
    ("upper", "lower", "possible", "only_upper"),
    [
        (6, 2, False, False),  # eight joints are too few
        (6, 3, True, False),
        (7, 2, True, True),  # two joints are no half
        (2, 7, True, False),
    ],
)
def test_a_half_of_fewer_than_three_joints_gives_way_to_the_other(
    upper: int, lower: int, possible: bool, only_upper: bool
) -> None:
    joints = torch.zeros(200, 19, 3)
    joints[:, :11, :2], joints[:, 11:, :2] = 60.0, 160.0
    joints[:, :upper, 2] = joints[:, 11 : 11 + lower, 2] = 2
    centre, _, halved = _half_body(joints, torch.arange(19) >= 11, torch.Generator().manual_seed(0))
    assert halved.all() == halved.any() == possible
    is_upper = centre[:, 0] < 100
    if possible:
        assert (is_upper.all() == only_upper) and (is_upper.any() == (upper >= 3))


def test_half_a_body_is_shown_as_large_as_hrnet_shows_it() -> None:
    """The extent of its joints at the input's aspect, times 1.5."""
    joints = torch.full((2, 17, 3), 2.0)
    joints[:, :, :2] = 100.0
    joints[:, 0, :2], joints[:, 11, :2] = 140.0, 140.0
    joints[1, [0, 11], 0] = 180.0
    _, width, _ = _half_body(joints, torch.arange(17) >= 11, torch.Generator().manual_seed(0))
    assert width.tolist() == pytest.approx([40 * 1.5, 80 * 1.5])


def test_a_mirrored_joint_keeps_its_score() -> None:
    crops, joints = _one_dot(9, 24 + 80, 32 + 120)
    joints[0, 9, 2] = 1  # placed by a teacher
    scores = torch.ones(1, 17)
    scores[0, 9] = 0.4
    batch = make_batch(
        crops,
        joints,
        scores,
        None,
        size_wh=INPUT_WH,
        sigma=2.0,
        augmentation=replace(STILL, flip=1.0),
        generator=torch.Generator().manual_seed(3),
    )
    assert batch.weights[0].nonzero().flatten().tolist() == [10]
    assert batch.weights[0, 10].item() == pytest.approx(0.4)


def test_a_joint_that_somebody_saw_counts_wholly_whatever_its_score() -> None:
    crops, joints = _one_dot(9, 24 + 80, 32 + 120)
    scores = torch.full((1, 17), 0.4)
    given = {"size_wh": INPUT_WH, "sigma": 2.0, "augmentation": STILL}
    for visible, weight in ((2, 1.0), (1, 0.4), (0, 0.0)):
        joints[0, 9, 2] = visible
        noise = torch.Generator().manual_seed(3)
        batch = make_batch(crops, joints, scores, None, generator=noise, **given)  # type: ignore[arg-type]
        assert batch.weights[0, 9].item() == pytest.approx(weight)


def test_softened_picture_loses_detail_and_keeps_its_joints() -> None:
    crops, joints = _one_dot(9, 24 + 80, 32 + 120)
    crops[:, ::2, ::2] = 255
    sharp, soft = (_batch(crops, joints, replace(STILL, soften=share)) for share in (0.0, 1.0))
    assert soft.images.std() < 0.5 * sharp.images.std()
    assert torch.equal(soft.targets, sharp.targets)
    assert soft.images.shape == sharp.images.shape


def test_teacher_labels_only_people_without_a_label(coco_folder: Path, tmp_path: Path) -> None:
    document = json.loads(coco_folder.read_text())
    document["annotations"][2]["keypoints"] = [0] * 51
    coco_folder.write_text(json.dumps(document))
    teacher = tmp_path / "teacher.onnx"
    heatmaps = np.zeros((1, 17, 64, 48), np.float32)
    heatmaps[0, np.arange(17), 20 + np.arange(17), 10] = np.where(np.arange(17) < 9, 0.8, 0.1)
    save_constant_teacher(teacher, heatmaps)

    cache = build_cache(coco_folder, tmp_path / "cache", teacher=teacher)

    taught = cache.joints[2]
    assert taught[:, 2].tolist() == [1.0] * 9 + [0.0] * 8
    assert taught[4, :2].tolist() == [10 * 4 + TEACHER_SHIFT[0], 24 * 4 + TEACHER_SHIFT[1]]
    np.testing.assert_allclose(cache.scores[2, :9], 0.8, atol=0.01)
    assert set(cache.joints[1, :, 2]) == {1.0, 2.0}
    assert cache.teacher is not None
    assert (cache.teacher[1] == cache.teacher[2]).all()
