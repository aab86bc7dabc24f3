"""Colour and occluders of training pictures."""

import torch
from torch import Tensor

from posenets.training.looks import erase, jitter, uniform

STRENGTH = 0.4
PICTURES = torch.rand(5, 3, 24, 16, generator=torch.Generator().manual_seed(2)) * 255


def _one_after_another(images: Tensor, generator: torch.Generator) -> Tensor:
    """Saturation, contrast, brightness and white balance, each a step of its own."""
    n = len(images)
    gain = 1 + uniform(n * 3, -0.3, 0.3, generator).reshape(n, 3, 1, 1) * STRENGTH
    contrast = 1 + uniform(n, -1, 1, generator).reshape(n, 1, 1, 1) * STRENGTH
    shift = uniform(n, -80, 80, generator).reshape(n, 1, 1, 1) * STRENGTH
    saturation = 1 + uniform(n, -1, 0.6, generator).reshape(n, 1, 1, 1) * 2 * STRENGTH
    grey = images.mean(1, keepdim=True)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = grey + (images - grey) * saturation
    return (((images - mean) * contrast + mean + shift) * gain).clamp(0, 255)


def test_one_matrix_does_what_the_steps_of_colour_do() -> None:
    expected = _one_after_another(PICTURES, torch.Generator().manual_seed(4))
    changed = jitter(PICTURES, STRENGTH, torch.Generator().manual_seed(4))
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-3)
    assert (changed - PICTURES).abs().mean() > 5


def test_no_strength_leaves_colours_alone() -> None:
    same = jitter(PICTURES, 0.0, torch.Generator().manual_seed(4))
    torch.testing.assert_close(same, PICTURES, rtol=0, atol=1e-3)


def test_an_occluder_is_one_grey_rectangle() -> None:
    hidden = erase(PICTURES, 1.0, torch.Generator().manual_seed(1))
    for before, after in zip(PICTURES, hidden, strict=True):
        changed = (before != after).any(0)
        assert changed.sum() == changed.any(1).sum() * changed.any(0).sum() > 0
        assert len(after[:, changed].unique()) == 1
    assert torch.equal(erase(PICTURES, 0.0, torch.Generator()), PICTURES)
