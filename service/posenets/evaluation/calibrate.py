"""Detector scores that mean something: the chance that a box holds a person.

Platt scaling (Platt, 1999): chance = sigmoid(slope * logit(score) + shift), fitted on boxes that
survive suppression, each right when it overlaps a labelled person by half.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from posegate.crops import Preprocess, letterbox
from posegate.types import F32, F64, Image
from posenets.networks.person_detector import PersonDetector
from posenets.progress import shown
from posenets.training.detection_data import FILL, Photo
from posenets.training.detection_loss import pairwise_iou
from posenets.training.recipe import Recipe

RIGHT_IOU = 0.5
NMS_IOU = 0.6
MIN_SCORE = 0.05
_NEWTON_STEPS = 50
_FLAT = 1e-5
"""Gradient at which the likelihood is taken for its greatest."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """`chance = sigmoid(slope * logit + shift)`; the identity until it is fitted."""

    slope: float = 1.0
    shift: float = 0.0


@torch.no_grad()
def calibrate_detector(
    network: PersonDetector, photos: Iterable[Photo], recipe: Recipe
) -> tuple[Calibration, int]:
    """Fit the scores on labelled photos; also returns the number of boxes it rests on."""
    network.eval()
    size = recipe.phases[-1].width
    preprocess = Preprocess((size, size), "rgb", recipe.mean, recipe.std)
    logits, right = [], []
    for photo in shown(list(photos), "calibrate"):
        tensor, input_to_image = letterbox(Image(photo.stored.pixels_bgr()), preprocess, fill=FILL)
        raw, boxes = network(torch.from_numpy(tensor))
        kept = _suppress(boxes[0], raw[0].sigmoid())
        scale = torch.tensor(input_to_image, dtype=torch.float32).repeat(2)
        verdict, counts = _judge(boxes[0, kept] * scale, photo)
        logits.append(raw[0, kept].numpy()[counts])
        right.append(verdict[counts])
    return fit_logistic(np.concatenate(logits), np.concatenate(right)), sum(map(len, right))


def fit_logistic(logits: F32, right: np.ndarray) -> Calibration:
    """Slope and shift of greatest likelihood, by Newton's method with steps that never lower it.

    `logits` (N,), `right` (N,) bool. Targets are smoothed as Platt does, so that separable data
    give finite numbers; slope 0 where all are right or all wrong. Lin, Lin & Weng, A Note on
    Platt's Probabilistic Outputs for Support Vector Machines, Machine Learning 68, 2007.
    """
    yes, no = int(right.sum()), int((~right).sum())
    target = np.where(right, (yes + 1) / (yes + 2), 1 / (no + 2))
    features = np.column_stack([logits.astype(np.float64), np.ones(len(logits))])
    weights: F64 = np.array([0.0, np.log((yes + 1) / (no + 1))])
    for _ in range(_NEWTON_STEPS):
        chance = np.exp(-np.logaddexp(0, -features @ weights))
        gradient = features.T @ (target - chance)
        if np.abs(gradient).max() < _FLAT:
            break
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features
        step = np.linalg.solve(curvature + 1e-6 * np.eye(2), gradient)
        while _loss(features @ (weights + step), target) > _loss(features @ weights, target):
            step /= 2
        weights = weights + step
    return Calibration(float(weights[0]), float(weights[1]))


def _loss(logits: F64, target: F64) -> float:
    """Cross-entropy, the negative logarithm of the likelihood."""
    return float((np.logaddexp(0, logits) - target * logits).sum())


def _suppress(boxes: Tensor, scores: Tensor) -> list[int]:
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).numpy()
    kept = cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), MIN_SCORE, NMS_IOU)
    return np.asarray(kept, np.int64).reshape(-1).tolist()


def _judge(boxes: Tensor, photo: Photo) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes (best first) take a person of their own, and which of all count at all.

    One that lies by half in an ignored region, such as a crowd, does not, as in COCO's evaluator.
    """
    overlaps = pairwise_iou(boxes[None], torch.from_numpy(photo.people)[None])[0].numpy()
    right = np.zeros(len(boxes), bool)
    for index in range(len(boxes)):
        if overlaps.shape[1] and overlaps[index].max() >= RIGHT_IOU:
            right[index] = True
            overlaps[:, overlaps[index].argmax()] = 0
    regions = torch.from_numpy(photo.ignored)
    low = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1, keepdim=True)
    unknown = (shared >= RIGHT_IOU * areas).any(1).numpy()
    return right, right | ~unknown
