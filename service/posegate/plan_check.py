"""plan + ONNX file -> how far apart they are, on crops of photos or on made ones.

Half precision has ruined light networks without a word, so no plan is served unseen.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from posegate.build import running_pipeline
from posegate.card import ModelCard
from posegate.catalog import Model
from posegate.codecs import make_codec
from posegate.crops import Preprocess, letterbox, normalize, warp_crops
from posegate.errors import BadCard
from posegate.image import ImageLimits, decode_image
from posegate.options import EstimateOptions
from posegate.settings import Settings
from posegate.skeleton import sigmas_of
from posegate.types import F32, F64, Boxes, Image

SURE = 0.3
"""Places of lower scores are not compared: there the least rounding decides between near equals."""
MADE_CROPS = 8
MOST_CROPS = 32


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """Differences to the ONNX file: of outputs, as a fraction of their range; of places, in pixels
    of the network's input; and the mean OKS of the plan's keypoints, the file's being the truth.
    """

    max_abs_diff: float
    max_pixel_diff: float
    oks: float | None

    def as_dict(self) -> dict[str, Any]:
        """None for a difference that is not finite, which JSON has no number for."""
        return {
            name: figure if figure is not None and math.isfinite(figure) else None
            for name, figure in asdict(self).items()
        }


async def photo_crops(model: Model, photos: Sequence[Path], settings: Settings) -> F32:
    """Network input (n, 3, H, W): the people of the photos, or the photos for a detector."""
    card = model.card
    images = [decode_image(path.read_bytes(), ImageLimits()) for path in photos]
    preprocess = Preprocess.of(card.input)
    if card.letterbox is not None:
        parts = [letterbox(image, preprocess, fill=card.letterbox.fill)[0] for image in images]
    else:
        people = await _people(photos, settings)
        crop = partial(_crop, card=card, preprocess=preprocess)
        parts = [crop(image, boxes) for image, boxes in zip(images, people, strict=True)]
    return np.concatenate(parts)[:MOST_CROPS]


def made_crops(model: Model) -> F32:
    """Network input (8, 3, H, W) from smooth random pictures."""
    card = model.card
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (MADE_CROPS, 12, 9, 3), dtype=np.uint8)
    size = card.input.size_wh
    large = [cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in small]
    return normalize(np.stack(large), Preprocess.of(card.input))


def onnx_outputs(model: Model, crops: F32) -> dict[str, F32]:
    """What the ONNX file gives; BadCard where it cannot be loaded."""
    names = list(model.card.output.names)
    try:
        session = onnxruntime.InferenceSession(
            str(model.onnx_path), providers=["CPUExecutionProvider"]
        )
        arrays = session.run(names, {model.card.input.name: crops})
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise BadCard(f"{model.onnx_path} cannot be run by ONNX Runtime: {error}") from error
    return dict(zip(names, arrays, strict=True))


def compare(card: ModelCard, expected: dict[str, F32], actual: dict[str, F32]) -> PlanCheck:
    """How far `actual` lies from `expected`, outputs by name; infinite where it holds NaN."""
    missing = [
        name
        for name, output in expected.items()
        if name not in actual or actual[name].shape != output.shape
    ]
    if missing or not all(np.isfinite(actual[name]).all() for name in expected):
        return PlanCheck(float("inf"), float("inf"), None if card.codec is None else 0.0)
    spans = {name: float(np.ptp(output)) or 1.0 for name, output in expected.items()}
    largest = max(
        float(np.abs(actual[name] - expected[name]).max()) / spans[name] for name in expected
    )
    places = _keypoint_distances if card.codec is not None else _box_distances
    pixels, oks = places(card, expected, actual)
    return PlanCheck(largest, pixels, oks)


def _keypoint_distances(
    card: ModelCard, expected: dict[str, F32], actual: dict[str, F32]
) -> tuple[float, float | None]:
    assert card.codec is not None
    codec = make_codec(**card.codec.model_dump(), crop_wh=card.input.size_wh)
    truth = codec.decode([expected[name] for name in card.output.names])
    answer = codec.decode([actual[name] for name in card.output.names])
    distance = np.linalg.norm(truth.xy.astype(np.float64) - answer.xy, axis=-1)
    judged = _surest(truth.scores)
    area = card.input.width * card.input.height / (card.crop.padding if card.crop else 1) ** 2
    oks: F64 = np.exp(-(distance**2) / (2 * area * (2 * sigmas_of(card.keypoints)) ** 2))
    return float(distance[judged].max()), float(oks[judged].mean())


def _box_distances(
    card: ModelCard, expected: dict[str, F32], actual: dict[str, F32]
) -> tuple[float, float | None]:
    """Each sure box against the nearest of the other side, the worst corner."""
    (boxes, scores), (others, _) = (_boxes(card, one) for one in (expected, actual))
    judged = _surest(scores)
    worst = 0.0
    for image in range(len(boxes)):
        sure = boxes[image][judged[image]]
        if len(sure):
            gaps = np.abs(sure[:, None] - others[image][None]).max(axis=-1).min(axis=-1)
            worst = max(worst, float(gaps.max()))
    return worst, None


def _boxes(card: ModelCard, outputs: dict[str, F32]) -> tuple[F32, F32]:
    arrays = [outputs[name] for name in card.output.names]
    return (arrays[0][..., :4], arrays[0][..., 4]) if len(arrays) == 1 else (arrays[0], arrays[1])


def _surest(scores: F32) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Scores of at least `SURE`; where there is none, the highest tenth."""
    if (scores >= SURE).any():
        return np.asarray(scores >= SURE)
    return np.asarray(scores >= np.quantile(scores, 0.9))


async def _people(photos: Sequence[Path], settings: Settings) -> list[Boxes]:
    async with running_pipeline(settings) as pipeline:
        finding = (pipeline.find_people(path.read_bytes(), EstimateOptions()) for path in photos)
        return list(await asyncio.gather(*finding))


def _crop(image: Image, boxes: Boxes, *, card: ModelCard, preprocess: Preprocess) -> F32:
    """The people of one photo, or all of it where none was found."""
    if not len(boxes):
        whole = np.array([[0, 0, image.width - 1, image.height - 1]], np.float32)
        boxes = Boxes(whole, np.ones(1, np.float32))
    assert card.crop is not None
    return warp_crops(image, boxes, preprocess, padding=card.crop.padding).tensor
