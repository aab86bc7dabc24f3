"""image + boxes -> keypoints: crops, network and codec of one pose model."""

import asyncio
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegate.backends.base import Network
from posegate.card import ModelCard
from posegate.catalog import Model
from posegate.codecs import Codec, make_codec
from posegate.crops import Preprocess, warp_crops
from posegate.geometry import apply_affine
from posegate.people import person_scores, sure_people
from posegate.pool import Pool
from posegate.skeleton import flip_order
from posegate.stages import StageClock
from posegate.types import F32, F64, Boxes, Crops, Image, Keypoints, Poses

DECODES = ("dark", "quarter", "argmax")
_CROPS_WORTH_A_THREAD = 3
"""A crop takes about 0.25 ms, waking a thread about 0.1."""


class Estimator:
    """One pose network with the crops and the codec that its card asks for."""

    def __init__(
        self, model: Model, *, backend: Network, pool: Pool, decoded: Network | None = None
    ) -> None:
        """`decoded` runs the same network with its decoding in the graph; used while it is ready.

        The flip test averages maps, so it always takes the whole ones.
        """
        card = model.card
        assert card.crop is not None
        assert card.codec is not None
        self.names = card.keypoints
        self._padding = card.crop.padding
        self._preprocess = Preprocess.of(card.input)
        self._backend, self._codecs = backend, _codecs(card)
        self._decoded: tuple[Network, dict[str, Codec]] | None = None
        if decoded is not None and (decoded_card := card.with_decoding_in_the_graph()):
            self._decoded = decoded, _codecs(decoded_card)
        self._flip_order: NDArray[np.int64] = flip_order(card.keypoints)
        self._pool = pool

    async def estimate(
        self,
        image: Image,
        boxes: Boxes,
        *,
        decode: str,
        flip_test: bool,
        deadline: float | None,
        clock: StageClock,
        min_score: float | None = None,
    ) -> tuple[Poses, float]:
        """The boxes' people with their keypoints, image pixels, and the network's seconds.

        There is at least one box. With `flip_test` the mirrored crops run beside the crops and both
        answers are averaged. With `min_score` only people of that score are answered, nobody twice
        and the surest first; else there is a person per box, in their order.
        """
        crops = await self._crop(image, boxes, flip_test)
        clock.mark("crop")
        network, codecs = self._backend, self._codecs
        if self._decoded is not None and not flip_test and self._decoded[0].ready() is None:
            network, codecs = self._decoded
        inference = await network.infer(crops.tensor, deadline=deadline)
        clock.attribute("queue", inference.queue_s)
        clock.mark("infer")
        codec, outputs = codecs[decode], inference.outputs

        def finish() -> Poses:
            keypoints = self._decode(outputs, crops, codec, flip_test)
            scores = person_scores(boxes.scores, keypoints.scores)
            poses = Poses(Boxes(boxes.xyxy, scores), keypoints, self.names)
            return poses if min_score is None else sure_people(poses, min_score)

        poses = await self._pool.run(finish)
        clock.mark("keypoints")
        return poses, inference.infer_s

    async def _crop(self, image: Image, boxes: Boxes, flip_test: bool) -> Crops:
        """All people's crops in one tensor, then their mirror images; many are cut in parallel."""
        people = len(boxes)
        width, height = self._preprocess.size_wh
        tensor = np.empty((people * (1 + flip_test), 3, height, width), np.float32)
        parts = min(self._pool.threads, -(-people // _CROPS_WORTH_A_THREAD))
        cuts = [people * part // parts for part in range(parts + 1)]
        affines = await asyncio.gather(
            *(
                self._pool.run(partial(self._warp, image, boxes, slice(*cut), tensor, flip_test))
                for cut in pairwise(cuts)
            )
        )
        return Crops(tensor, np.concatenate(affines * (1 + flip_test)))

    def _warp(self, image: Image, boxes: Boxes, part: slice, tensor: F32, flip_test: bool) -> F64:
        """Fill a part of the crops; the way back (p, 2, 3) of each."""
        some = Boxes(boxes.xyxy[part], boxes.scores[part])
        crops = warp_crops(image, some, self._preprocess, padding=self._padding, out=tensor[part])
        if flip_test:
            mirrored = slice(len(boxes) + part.start, len(boxes) + part.stop)
            tensor[mirrored] = crops.tensor[..., ::-1]
        return crops.crop_to_image

    def _decode(
        self, outputs: tuple[F32, ...], crops: Crops, codec: Codec, flip_test: bool
    ) -> Keypoints:
        people = len(crops) // 2 if flip_test else len(crops)
        straight: tuple[NDArray[Any], ...] = tuple(output[:people] for output in outputs)
        if flip_test:
            turned = codec.flip([output[people:] for output in outputs], self._flip_order)
            straight = tuple((a + b) / 2 for a, b in zip(straight, turned, strict=True))
        keypoints = codec.decode(straight)
        xy = apply_affine(crops.crop_to_image[:people], keypoints.xy)
        return Keypoints(xy, keypoints.scores)


def nobody(joints: tuple[str, ...]) -> Poses:
    """The poses of an image without people; `joints` are the names of their keypoints."""
    none = np.zeros((0, len(joints)), np.float32)
    boxes = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    return Poses(boxes, Keypoints(np.zeros((0, len(joints), 2), np.float32), none), joints)


def _codecs(card: ModelCard) -> dict[str, Codec]:
    """The card's codec for every way to decode."""
    assert card.codec is not None
    numbers = card.codec.model_dump()
    return {
        decode: make_codec(**numbers, crop_wh=card.input.size_wh, decode=decode)
        for decode in DECODES
    }
