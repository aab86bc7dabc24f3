"""Learning to find people."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posenets.networks.person_detector import points_of
from posenets.training.detection_data import DetectionBatch, DetectionData
from posenets.training.detection_loss import detection_loss
from posenets.training.recipe import DetectionRecipe


class DetectionTask:
    """Batches of augmented photos, moved to the device, and the detector's loss."""

    def __init__(self, data: DetectionData, recipe: DetectionRecipe, device: torch.device) -> None:
        self.data = data
        self.recipe = recipe
        self.device = device
        self._mean = torch.tensor(recipe.mean, device=device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(recipe.std, device=device).reshape(1, 3, 1, 1)

    def draw(self, seen: int) -> tuple[DetectionBatch, int]:
        """A batch at the input size of the phase."""
        phase = self.recipe.phase_at(seen)
        return self.data.batch(phase.batch, phase.width), phase.batch

    def loss(self, network: nn.Module, batch: DetectionBatch) -> Tensor:
        """Score and box loss with task-aligned assignment."""
        images = (batch.images.to(self.device) - self._mean) / self._std
        logits, boxes = network(images.contiguous(memory_format=torch.channels_last))
        centres, _ = points_of((images.shape[3], images.shape[2]))
        return detection_loss(
            logits.float(),
            boxes.float(),
            centres.to(self.device),
            batch.people.to(self.device),
            batch.valid.to(self.device),
            batch.ignored.to(self.device),
        )

    def random_state(self) -> Any:
        """State of the data's random source."""
        return self.data.random.bit_generator.state

    def set_random_state(self, state: Any) -> None:
        """Take up a stored state."""
        self.data.random.bit_generator.state = state

    def reseed(self, seed: int) -> None:
        """Start the data's random source anew."""
        self.data.random = np.random.default_rng(self.recipe.seed + seed)
