"""Joints -> target heatmaps and loss weights, in two ways.

Our own recipes put the peak at the exact joint; the papers' put it on a whole pixel as HRNet does.
"""

import torch
from torch import Tensor

from posegate.codecs.gaussian import CUT_SIGMAS


def exact_targets(points: Tensor, map_wh: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Gaussians at `points`, round patches; a joint counts where its own pixel is in the map.

    `points` (N, J, 2) in heatmap pixels -> (N, J, h, w) of peak 1 and (N, J) float32, 0 or 1.
    """
    width, height = map_wh
    dx, dy = _squared_distances(points, map_wh)
    across, down = (torch.exp(-squared / (2 * sigma**2)) for squared in (dx, dy))
    maps = down[..., :, None] * across[..., None, :]
    maps *= dy[..., :, None] + dx[..., None, :] <= (CUT_SIGMAS * sigma) ** 2
    x, y = points.unbind(-1)
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    return maps, inside.float()


def rounded_targets(points: Tensor, map_wh: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """HRNet's: peaks on the nearest pixel, square patches; a joint counts where its patch reaches.

    The same as `HeatmapCodec(rounded=True).encode`, in the shapes of `exact_targets`.
    """
    centre = (points + 0.5).floor()
    reach = CUT_SIGMAS * sigma
    across, down = (
        torch.exp(-squared / (2 * sigma**2)) * (squared <= reach**2)
        for squared in _squared_distances(centre, map_wh)
    )
    last = torch.tensor(map_wh, device=points.device) - 1
    touched = ((centre >= -reach) & (centre <= last + reach)).all(-1)
    return down[..., :, None] * across[..., None, :], touched.float()


def _squared_distances(points: Tensor, map_wh: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(N, J, w) and (N, J, h): from each column and from each row."""
    xs, ys = (torch.arange(size, device=points.device) for size in map_wh)
    return (xs - points[..., 0:1]) ** 2, (ys - points[..., 1:2]) ** 2
