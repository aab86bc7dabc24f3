"""Learning heatmaps from cached person crops."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posenets.networks.nam import nam_scales
from posenets.training.augment import Batch, make_batch
from posenets.training.cache import CropCache
from posenets.training.loss import (
    distillation_loss,
    heatmap_weighting_loss,
    localisation_loss,
)
from posenets.training.recipe import PoseRecipe

_SIGMA_AT_WIDTH = ((24, 1.4), (48, 2.0))
"""Gaussian width in heatmap pixels against the heatmap's width; between them linear."""
_LOSS_SCALE = 1000.0
"""Means over mostly empty maps are tiny: unscaled, the deep layers' gradients fall below Adam's
epsilon and weight decay alone moves them."""


class PoseTask:
    """Draws random people of all caches; on a GPU the whole data lies in its memory."""

    def __init__(self, caches: list[CropCache], recipe: PoseRecipe, device: torch.device) -> None:
        self.recipe = recipe
        self.caches = caches
        self.joint_names = caches[0].joint_names
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.joints = torch.from_numpy(np.concatenate([c.joints for c in caches])).to(device)
        self.scores = torch.from_numpy(np.concatenate([c.scores for c in caches])).to(device)
        weights = [recipe.source_weights.get(s, 1.0) for c in caches for s in c.sources]
        self.chances = torch.tensor(weights, device=device)
        self.starts = np.cumsum([0] + [len(c) for c in caches])
        self.has_teacher = recipe.distil > 0 and all(c.teacher is not None for c in caches)
        self._mean = torch.tensor(recipe.mean, device=device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(recipe.std, device=device).reshape(1, 3, 1, 1)
        self.resident: tuple[Tensor, Tensor | None] | None = None
        if device.type != "cpu":
            crops = torch.cat([torch.from_numpy(np.array(c.crops)).to(device) for c in caches])
            teacher = None
            if self.has_teacher:
                maps = [torch.from_numpy(np.array(c.teacher)).to(device) for c in caches]
                teacher = torch.cat(maps)
            self.resident = crops, teacher

    def draw(self, seen: int) -> tuple[Batch, int]:
        """An augmented batch at the input size of the phase."""
        phase = self.recipe.phase_at(seen)
        index = torch.multinomial(
            self.chances, phase.batch, replacement=True, generator=self.generator
        )
        crops, teacher = self._read(index)
        batch = make_batch(
            crops,
            self.joints[index],
            self.scores[index],
            teacher,
            size_wh=(phase.width, phase.height),
            sigma=self.recipe.sigma or sigma_for(phase.width // 4),
            augmentation=self.recipe.augmentation,
            generator=self.generator,
            joint_names=self.joint_names,
        )
        return batch, phase.batch

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Heatmap-weighting loss on the labels plus the distance to the teacher's maps."""
        images = ((batch.images - self._mean) / self._std).contiguous(
            memory_format=torch.channels_last
        )
        predicted = network(images).float()
        loss = heatmap_weighting_loss(
            predicted, batch.targets, batch.weights, self.recipe.weighting
        )
        if self.recipe.localise:
            where = localisation_loss(predicted, batch.targets, batch.weights)
            loss = loss + self.recipe.localise * where
        if batch.teacher is not None and batch.teacher_seen is not None:
            distilled = distillation_loss(predicted, batch.teacher, batch.teacher_seen)
            loss = loss + self.recipe.distil * distilled
            if self.recipe.localise:
                shown = batch.teacher.amax((2, 3)).clamp(0, 1) * batch.teacher_seen.mean((2, 3))
                where = localisation_loss(predicted, batch.teacher, shown)
                loss = loss + self.recipe.distil * self.recipe.localise * where
        if self.recipe.sparsity:
            penalty = torch.stack([scale.abs().sum() for scale in nam_scales(network)]).sum()
            loss = loss + self.recipe.sparsity * penalty
        return loss * _LOSS_SCALE

    def random_state(self) -> Any:
        """State of the generator."""
        return self.generator.get_state()

    def set_random_state(self, state: Any) -> None:
        """Take up a stored generator state."""
        self.generator.set_state(state)

    def reseed(self, seed: int) -> None:
        """Start the generator anew."""
        self.generator.manual_seed(self.recipe.seed + seed)

    def _read(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.resident is not None:
            crops, maps = self.resident
            return crops[index], None if maps is None else maps[index]
        caches = np.searchsorted(self.starts, index.numpy(), side="right") - 1
        rows = index.numpy() - self.starts[caches]
        chosen = [(self.caches[c], int(row)) for c, row in zip(caches, rows, strict=True)]
        pixels = torch.from_numpy(np.stack([cache.crops[row] for cache, row in chosen]))
        if not self.has_teacher:
            return pixels, None
        taught = [cache.teacher[row] for cache, row in chosen if cache.teacher is not None]
        return pixels, torch.from_numpy(np.stack(taught))


def sigma_for(heatmap_width: int) -> float:
    """Target Gaussian width in heatmap pixels for a heatmap that wide."""
    widths, sigmas = zip(*_SIGMA_AT_WIDTH, strict=True)
    return float(np.interp(heatmap_width, widths, sigmas))
