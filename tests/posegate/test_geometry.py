import numpy as np
import pytest

from posegate.geometry import (
    apply_affine,
    box_to_region,
    compose_affine,
    invert_affine,
    region_to_crop_affine,
)


def boxes(*xyxy: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(xyxy, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("box", "region"),
    [
        ((10, 20, 40, 60), (25, 40, 37.5, 50)),  # already 3:4, padded by 1.25
        ((0, 0, 10, 80), (5, 40, 75, 100)),  # too narrow: widened
        ((0, 0, 60, 10), (30, 5, 75, 100)),  # too flat: heightened
        ((7, 8, 7, 8), (7, 8, 1.25, 1.25 / 0.75)),  # a point: one pixel wide
    ],
)
def test_region_has_the_aspect_and_padding(box: tuple, region: tuple) -> None:
    found = box_to_region(boxes(box), aspect=0.75, padding=1.25)
    np.testing.assert_allclose(found, [region], rtol=1e-6)


def test_region_centre_and_size_fill_the_crop() -> None:
    affine = region_to_crop_affine(np.array([[50.0, 30.0, 96.0, 128.0]]), size_wh=(192, 256))
    points = np.array([[[50.0, 30.0], [50 - 48, 30 - 64], [50 + 48, 30 + 64]]])
    want = [[[95.5, 127.5], [-0.5, -0.5], [191.5, 255.5]]]
    np.testing.assert_allclose(apply_affine(affine, points), want, atol=1e-4)


def test_there_and_back_is_the_identity() -> None:
    random = np.random.default_rng(0)
    affine = random.normal(size=(5, 2, 3))
    points = random.uniform(-500, 500, (5, 7, 2))
    back = apply_affine(invert_affine(affine), apply_affine(affine, points))
    np.testing.assert_allclose(back, points, atol=0.02)
    identity = np.broadcast_to(np.eye(2, 3), (5, 2, 3))
    np.testing.assert_allclose(compose_affine(invert_affine(affine), affine), identity, atol=1e-9)


def test_compose_maps_like_one_after_the_other() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(size=(2, 2, 3))
    points = random.normal(size=(4, 2))
    both = apply_affine(compose_affine(second, first), points)
    np.testing.assert_allclose(both, apply_affine(second, apply_affine(first, points)), atol=1e-5)


def test_nobody_gives_no_regions() -> None:
    regions = box_to_region(boxes(), aspect=0.75, padding=1.25)
    assert regions.shape == (0, 4)
    assert invert_affine(region_to_crop_affine(regions, size_wh=(192, 256))).shape == (0, 2, 3)
