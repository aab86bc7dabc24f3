import cv2
import numpy as np
import pytest

from posegate.crops import Preprocess, letterbox, normalize, warp_crops
from posegate.geometry import apply_affine, invert_affine
from posegate.types import Boxes, Image

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
RGB = Preprocess(size_wh=(192, 256), color="rgb", mean=MEAN, std=STD)
PLAIN = Preprocess(size_wh=(192, 256), color="bgr", mean=(0, 0, 0), std=(1, 1, 1))


def boxes(*xyxy: tuple[float, float, float, float]) -> Boxes:
    return Boxes(np.array(xyxy, np.float32).reshape(-1, 4), np.ones(len(xyxy), np.float32))


def dot_at(x: float, y: float, *, width: int = 640, height: int = 480, sigma: float = 4) -> Image:
    """A soft white dot whose centre of mass is (x, y)."""
    rows, columns = np.mgrid[0:height, 0:width]
    value = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return Image(np.repeat(value[..., None], 3, axis=2).round().astype(np.uint8))


def centre_of_mass(plane: np.ndarray) -> tuple[float, float]:
    rows, columns = np.indices(plane.shape)
    return float((columns * plane).sum() / plane.sum()), float((rows * plane).sum() / plane.sum())


@pytest.mark.parametrize(
    "box",
    [
        (250, 150, 350, 300),  # enlarged
        (100, 20, 500, 470),  # shrunk, partly out of the picture
        (270.3, 180.7, 341.9, 222.2),  # flat, fractional
    ],
)
def test_drawn_dot_lands_where_the_matrix_says(box: tuple) -> None:
    dot = (300.25, 201.75)
    crops = warp_crops(dot_at(*dot), boxes(box), PLAIN, padding=1.25)
    found = np.array([centre_of_mass(crops.tensor[0, 0])])
    back = apply_affine(crops.crop_to_image, found[None])[0, 0]
    np.testing.assert_allclose(back, dot, atol=0.05)


def test_every_person_has_the_crop_of_that_person_alone() -> None:
    image = Image(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    people = boxes((10, 10, 60, 90), (-40, -30, 20, 70), (100, 5, 300, 110))
    together = warp_crops(image, people, RGB, padding=1.25)
    for place, box in enumerate(people.xyxy):
        alone = warp_crops(image, boxes(tuple(box)), RGB, padding=1.25)
        np.testing.assert_array_equal(together.tensor[place], alone.tensor[0])
        np.testing.assert_array_equal(together.crop_to_image[place], alone.crop_to_image[0])


def test_crop_of_the_whole_region_is_the_picture_itself() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (256, 192, 3), np.uint8)
    crops = warp_crops(Image(pixels), boxes((-0.5, -0.5, 191.5, 255.5)), PLAIN, padding=1.0)
    np.testing.assert_allclose(crops.crop_to_image[0], np.eye(2, 3), atol=1e-9)
    np.testing.assert_array_equal(crops.tensor[0].transpose(1, 2, 0), pixels)


def test_outside_of_the_picture_is_black_before_normalisation() -> None:
    image = Image(np.full((50, 50, 3), 200, np.uint8))
    crops = warp_crops(image, boxes((1e6, 1e6, 2e6, 2e6), (60, 60, 90, 90)), RGB, padding=1.0)
    black = -np.array(MEAN) / np.array(STD)
    want = np.broadcast_to(black[None, :, None, None], crops.tensor.shape)
    np.testing.assert_allclose(crops.tensor, want, atol=1e-5)


def test_crops_agree_with_the_affine_warp_of_opencv() -> None:
    image = Image(np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8))
    crops = warp_crops(image, boxes((100, 50, 260, 400)), PLAIN, padding=1.25)
    forward = invert_affine(crops.crop_to_image[0])
    want = cv2.warpAffine(image.pixels_bgr, forward, (192, 256), flags=cv2.INTER_LINEAR)
    assert np.abs(crops.tensor[0].transpose(1, 2, 0) - want).max() <= 1


def test_nobody_gives_an_empty_batch() -> None:
    crops = warp_crops(dot_at(5, 5), boxes(), RGB, padding=1.25)
    assert crops.tensor.shape == (0, 3, 256, 192)
    assert len(crops) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (40_000, 2)])
def test_thin_pictures_can_be_cropped_and_letterboxed(shape: tuple[int, int]) -> None:
    image = Image(np.full((*shape, 3), 9, np.uint8))
    assert np.isfinite(warp_crops(image, boxes((0, 0, 1, 1)), RGB, padding=1.25).tensor).all()
    tensor, input_to_image = letterbox(image, RGB, fill=114)
    assert np.isfinite(tensor).all()
    assert np.isfinite(input_to_image).all()


def test_a_picture_longer_than_a_warp_can_reach_is_cropped_where_it_was_asked() -> None:
    column = np.linspace(0, 250, 40_000).astype(np.uint8)  # a value for each row
    image = Image(np.repeat(column[:, None, None], 300, axis=1).repeat(3, axis=2))
    crops = warp_crops(image, boxes((0, 30_000, 300, 30_400)), PLAIN, padding=1.0)
    assert crops.tensor[0, 0, 128, 96] == pytest.approx(column[30_200], abs=1)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_planes_follow_the_colour_order_of_the_card(color: str) -> None:
    pictures = np.random.default_rng(3).integers(0, 256, (2, 8, 6, 3), np.uint8)
    tensor = normalize(pictures, Preprocess(size_wh=(6, 8), color=color, mean=MEAN, std=STD))
    ordered = pictures[..., ::-1] if color == "rgb" else pictures
    want = ((ordered - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(tensor, want, atol=1e-5)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous


def test_letterbox_averages_what_it_makes_much_smaller() -> None:
    """Every eighth column is white: sampling would find all or none of them."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::8] = 255
    small = Preprocess(size_wh=(64, 64), color="bgr", mean=(0, 0, 0), std=(1, 1, 1))
    tensor, _ = letterbox(Image(stripes), small, fill=114)
    np.testing.assert_allclose(tensor, 255 / 8, atol=1)


@pytest.mark.parametrize(
    ("width", "height", "fitted"),
    [
        (640, 480, (320, 240)),  # halved
        (480, 640, (240, 320)),  # upright
        (100, 50, (320, 160)),  # enlarged
        (1000, 333, (320, 107)),  # shrunk by an odd number
        (320, 320, (320, 320)),  # as it is
    ],
)
def test_letterbox_puts_the_picture_at_the_top_left(
    width: int, height: int, fitted: tuple[int, int]
) -> None:
    square = Preprocess(size_wh=(320, 320), color="bgr", mean=(0, 0, 0), std=(1, 1, 1))
    tensor, back = letterbox(Image(np.full((height, width, 3), 7, np.uint8)), square, fill=114)
    assert tensor.shape == (1, 3, 320, 320)
    assert (tensor[0, :, : fitted[1], : fitted[0]] == 7).all()
    assert (tensor[0, :, fitted[1] :] == 114).all()
    assert (tensor[0, :, :, fitted[0] :] == 114).all()
    np.testing.assert_allclose(fitted * back, (width, height), atol=1e-3)


@pytest.mark.parametrize("size", [(640, 480), (1300, 700), (90, 160)])
def test_letterbox_maps_a_dot_back_to_its_place(size: tuple[int, int]) -> None:
    width, height = size
    square = Preprocess(size_wh=(320, 320), color="bgr", mean=(0, 0, 0), std=(1, 1, 1))
    dot = (width * 0.4 + 0.3, height * 0.6 + 0.2)
    image = dot_at(*dot, width=width, height=height, sigma=max(size) / 80)
    tensor, back = letterbox(image, square, fill=0)
    found = (np.array(centre_of_mass(tensor[0, 0])) + 0.5) * back - 0.5
    np.testing.assert_allclose(found, dot, atol=0.05)


@pytest.mark.parametrize("width", [320, 640, 1280, 4000])
def test_letterbox_maps_the_edges_of_a_rectangle_back_to_its_edges(width: int) -> None:
    """Drawn on `[x0, x1)`, whose COCO box is x0 to x1; its edges from how much the fit shows."""
    square = Preprocess(size_wh=(320, 320), color="bgr", mean=(0, 0, 0), std=(1, 1, 1))
    left, top, right, bottom = box = width * np.array([40, 24, 120, 160]) // 320
    pixels = np.zeros((width * 3 // 4, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    tensor, back = letterbox(Image(pixels), square, fill=0)
    plane = tensor[0, 0] / 255
    centre = np.array(centre_of_mass(plane)) + 0.5
    size = np.array([plane.sum(axis=1).max(), plane.sum(axis=0).max()])
    edges = np.concatenate([centre - size / 2, centre + size / 2])
    np.testing.assert_allclose(edges * np.tile(back, 2), box, atol=0.01 * width / 320)
