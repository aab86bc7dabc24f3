"""How pictures look on other days and by other cameras: resolution, colour, occluders.

`images` are (N, 3, H, W) float32 RGB 0..255 throughout.
"""

import torch
from torch import Tensor, nn


def soften(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Take a share of the pictures to a lower resolution and back, as people far away look."""
    chosen = uniform(len(images), 0, 1, generator) < share
    if not bool(chosen.any()):
        return images
    height, width = images.shape[2:]
    smaller = float(uniform(1, 0.25, 0.75, generator)) ** (0.5 if width < 144 else 1.0)
    size = [max(8, round(height * smaller)), max(6, round(width * smaller))]
    low = nn.functional.interpolate(images[chosen], size, mode="bilinear", antialias=True)
    images[chosen] = nn.functional.interpolate(low, (height, width), mode="bilinear")
    return images


def jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Another white balance, contrast, brightness and saturation for each picture."""
    n = len(images)
    gain = 1 + uniform(n * 3, -0.3, 0.3, generator).reshape(n, 3, 1) * strength
    contrast = 1 + uniform(n, -1, 1, generator).reshape(n, 1, 1) * strength
    shift = uniform(n, -80, 80, generator).reshape(n, 1, 1) * strength
    colourless = min(1.0, 2 * strength)
    saturation = 1 + uniform(n, -1, 0.6, generator).reshape(n, 1, 1) * colourless
    mean = images.mean((1, 2, 3)).reshape(n, 1, 1)
    # What colours become is linear, so each picture takes one matrix and one offset per channel.
    grey = torch.full((3, 3), 1 / 3, device=images.device)
    same = torch.eye(3, device=images.device)
    matrix = (grey + (same - grey) * saturation) * contrast * gain
    offset = (mean * (1 - contrast) + shift) * gain
    coloured = torch.bmm(matrix, images.flatten(2)).add_(offset).clamp_(0, 255)
    return coloured.reshape(images.shape)


def erase(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Grey one rectangle in a share of the pictures, as an occluder would."""
    n, _, height, width = images.shape
    chosen = uniform(n, 0, 1, generator) < share
    size_x = uniform(n, 0.1, 0.35, generator) * width
    size_y = uniform(n, 0.08, 0.3, generator) * height
    x0 = uniform(n, 0, 1, generator) * (width - size_x)
    y0 = uniform(n, 0, 1, generator) * (height - size_y)
    level = uniform(n, 0, 255, generator)
    xs = torch.arange(width, device=images.device)
    ys = torch.arange(height, device=images.device)
    in_x = (xs >= x0[:, None]) & (xs < (x0 + size_x)[:, None])
    in_y = (ys >= y0[:, None]) & (ys < (y0 + size_y)[:, None])
    hole = in_y[:, None, :, None] & in_x[:, None, None, :] & chosen[:, None, None, None]
    return torch.where(hole, level[:, None, None, None], images)


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count,) float32 drawn between `low` and `high`."""
    draw = torch.rand(count, generator=generator, device=generator.device)
    return low + (high - low) * draw
