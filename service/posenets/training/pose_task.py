"""Learning heatmaps from person crops."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posenets.networks.nam import nam_scales
from posenets.networks.posefpn import PoseFPN
from posenets.training.augment import Batch, make_batch
from posenets.training.cache import CropCache
from posenets.training.loss import (
    distillation_loss,
    heatmap_weighting_loss,
    localisation_loss,
)
from posenets.training.pose_data import CachedPeople, Source
from posenets.training.recipe import PoseRecipe

_SIGMA_AT_WIDTH = ((24, 1.4), (48, 2.0), (64, 2.0), (72, 3.0))
"""Gaussian width in heatmap pixels against the heatmap's width; between them linear. HRNet draws 2
at 256x192 and 256x256, 3 at 384x288."""
_LOSS_SCALE = 1000.0
"""Means over mostly empty maps are tiny: unscaled, the deep layers' gradients fall below Adam's
epsilon and weight decay alone moves them."""


class PoseTask:
    """Draws random people of a source and compares heatmaps."""

    def __init__(
        self, people: list[CropCache] | Source, recipe: PoseRecipe, device: torch.device
    ) -> None:
        self.recipe = recipe
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self._mean = torch.tensor(recipe.mean, device=device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(recipe.std, device=device).reshape(1, 3, 1, 1)
        if isinstance(people, list):
            taught = recipe.distil > 0
            people = CachedPeople(people, recipe.source_weights, device, with_teacher=taught)
        self.people: Source = people

    def draw(self, seen: int) -> tuple[Batch, int]:
        """An augmented batch at the input size of the phase."""
        phase = self.recipe.phase_at(seen)
        drawn = self.people.take(phase.batch, self.generator)
        batch = make_batch(
            drawn.crops,
            drawn.joints,
            drawn.scores,
            drawn.teacher,
            size_wh=(phase.width, phase.height),
            sigma=self.recipe.sigma or sigma_for(phase.width // phase.stride),
            stride=phase.stride,
            augmentation=self.recipe.augmentation,
            generator=self.generator,
            joint_names=self.people.joint_names,
            rounded=self.recipe.rounded,
        )
        return batch, phase.batch

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Heatmap-weighting loss on the labels plus the distance to the teacher's maps."""
        images = ((batch.images - self._mean) / self._std).contiguous(
            memory_format=torch.channels_last
        )
        stride = batch.images.shape[-1] // batch.targets.shape[-1]
        if isinstance(network, PoseFPN):
            predicted = network.heatmaps(images, stride).float()
        else:
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


def sigma_for(heatmap_width: int) -> float:
    """Target Gaussian width in heatmap pixels for a heatmap that wide."""
    widths, sigmas = zip(*_SIGMA_AT_WIDTH, strict=True)
    return float(np.interp(heatmap_width, widths, sigmas))
