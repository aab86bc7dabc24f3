import cv2
import numpy as np
import pytest

from posegate.codecs.dark import blur_radius, refine_dark
from posegate.codecs.heatmap import find_peaks

SIGMA = 2.0


def dark_on_whole_maps(heatmaps: np.ndarray, sigma: float) -> np.ndarray:
    """The authors' form (N, h, w) -> (N, 2): blurs each whole map, then one Taylor step."""
    kernel = 2 * blur_radius(sigma) + 1
    border = kernel // 2
    places = []
    for heatmap in heatmaps.astype(np.float64):
        height, width = heatmap.shape
        y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
        padded = np.pad(heatmap, border)
        blurred = cv2.GaussianBlur(padded, (kernel, kernel), sigma)[border:-border, border:-border]
        blurred *= heatmap.max() / blurred.max()
        log = np.log(np.maximum(blurred, 1e-10))
        place = np.array([x, y], float)
        if 1 < x < width - 2 and 1 < y < height - 2:
            dx = 0.5 * (log[y, x + 1] - log[y, x - 1])
            dy = 0.5 * (log[y + 1, x] - log[y - 1, x])
            dxx = 0.25 * (log[y, x + 2] - 2 * log[y, x] + log[y, x - 2])
            dyy = 0.25 * (log[y + 2, x] - 2 * log[y, x] + log[y - 2, x])
            dxy = 0.25 * (
                log[y + 1, x + 1] - log[y - 1, x + 1] - log[y + 1, x - 1] + log[y - 1, x - 1]
            )
            if dxx * dyy - dxy**2 != 0:
                place -= np.linalg.solve([[dxx, dxy], [dxy, dyy]], [dx, dy])
        places.append(place)
    return np.array(places)


def gaussians(centres_xy: np.ndarray, *, sigma: float = SIGMA, size_wh: tuple = (48, 64)):
    width, height = size_wh
    rows, columns = np.mgrid[0:height, 0:width]
    x, y = centres_xy[:, 0, None, None], centres_xy[:, 1, None, None]
    value = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return value.astype(np.float32)


def refine(heatmaps: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    return refine_dark(heatmaps, find_peaks(heatmaps)[0], sigma)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_patch_equals_the_whole_map_also_near_the_border(sigma: float, noise: float) -> None:
    random = np.random.default_rng(int(10 * sigma))
    centres = random.uniform((0, 0), (47, 63), (300, 2))
    heatmaps = 0.8 * gaussians(centres, sigma=sigma)
    heatmaps += noise * random.random(heatmaps.shape, np.float32)
    assert np.abs(refine(heatmaps, sigma) - dark_on_whole_maps(heatmaps, sigma)).max() < 0.01


def test_patch_equals_the_whole_map_where_two_people_overlap() -> None:
    random = np.random.default_rng(5)
    centres = random.uniform((10, 10), (38, 54), (200, 2))
    beside = centres + random.uniform(-8, 8, (200, 2))
    heatmaps = 0.9 * gaussians(centres) + 0.6 * gaussians(beside)
    assert np.abs(refine(heatmaps) - dark_on_whole_maps(heatmaps, SIGMA)).max() < 0.01


def test_the_blur_reaches_as_far_as_the_papers() -> None:
    """11 x 11 pixels for sigma 2, 17 x 17 for sigma 3."""
    assert [2 * blur_radius(sigma) + 1 for sigma in (2.0, 3.0)] == [11, 17]


@pytest.mark.parametrize("size_wh", [(48, 64), (24, 32), (7, 5), (1, 9), (1, 1)])
def test_peak_on_the_border_or_beside_it_stays(size_wh: tuple[int, int]) -> None:
    width, height = size_wh
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    near = (np.minimum(x, width - 1 - x) < 2) | (np.minimum(y, height - 1 - y) < 2)
    centres = np.stack([x[near], y[near]], axis=1).astype(float)
    off = np.clip(centres + 0.3, 0, (width - 1, height - 1))
    heatmaps = gaussians(off, size_wh=size_wh)
    np.testing.assert_array_equal(refine(heatmaps), find_peaks(heatmaps)[0])


def test_peak_at_every_place_of_a_small_map_stays_within_it() -> None:
    random = np.random.default_rng(6)
    heatmaps = random.random((500, 8, 6), np.float32)
    peaks = find_peaks(heatmaps)[0]
    assert np.abs(refine_dark(heatmaps, peaks, SIGMA) - peaks).max() <= 2


@pytest.mark.parametrize(
    "heatmap",
    [
        np.zeros((64, 48)),  # nothing
        np.full((64, 48), 0.5),  # flat
        np.full((64, 48), -3.0),  # negative
        np.repeat(np.hanning(48)[None], 64, axis=0),  # a ridge: no curvature along y
        np.add.outer(np.hanning(64) ** 0, np.arange(48.0)),  # a slope up to the border
        np.full((64, 48), np.nan),  # broken
        np.full((64, 48), np.inf),
    ],
)
def test_map_without_a_proper_peak_gives_no_wild_shift(heatmap: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        place = refine_dark(heatmap[None].astype(np.float32), np.array([[20, 30]]), SIGMA)
    assert np.isfinite(place).all()
    assert np.abs(place - [20, 30]).max() <= 2


def test_saddle_gives_no_shift() -> None:
    rows, columns = np.mgrid[0:64, 0:48]
    saddle = np.exp(((rows - 30.4) ** 2 - (columns - 20.3) ** 2) / 400).astype(np.float32)[None]
    np.testing.assert_array_equal(refine_dark(saddle, np.array([[20, 30]]), SIGMA), [[20, 30]])
