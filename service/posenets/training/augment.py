"""Augmentation of cached person crops, a whole batch at once, on whatever device holds it.

Flip, rotation, scale, shift, half body (as in HRNet's published code), people cut off as at a
picture's edge, low resolution, colour and erased patches. Geometry is one affine per person from
network input to the 240x320 frame of the cache; pictures, joints and teacher heatmaps go through it
alike.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from posegate.skeleton import COCO_KEYPOINTS, flip_order
from posenets.training.cache import CROP_WH, TEACHER_SHIFT
from posenets.training.looks import erase, jitter, soften, uniform
from posenets.training.targets import exact_targets, rounded_targets
from posenets.training.teacher import TEACHER_STRIDE, TEACHER_WH

HEATMAP_STRIDE = 4
_AT_ONCE = 8
"""Crops turned into floats at a time: so few stay in the CPU's cache, and 48 take three times as
long."""
_LOWER = ("hip", "knee", "ankle", "pelvis")
"""How the names of the lower body's joints end."""


Share = Annotated[float, Field(ge=0, le=1)]
"""Chance of one picture to be changed so, or a strength between none and all."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Strengths. Angles in degrees; scale and shift as fractions of the padded box.

    The scale is e^(std x), x normal within 2; with `linear_scale` 1 + std x, x within 1, as in
    HRNet's code.
    """

    flip: Share = 0.5
    rotation_std: Annotated[float, Field(ge=0, le=180)] = 25.0
    rotation: Share = 0.6
    scale_std: Annotated[float, Field(ge=0, lt=1)] = 0.25
    shift: Share = 0.06
    half_body: Share = 0.25
    cut: Share = 0.0
    soften: Share = 0.0
    colour: Share = 0.3
    erase: Share = 0.3
    linear_scale: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch.

    `images` (N, 3, H, W) float32 RGB 0..255; `targets` (N, J, h, w) float32 Gaussians of peak 1;
    `weights` (N, J) float32 in [0, 1]; `teacher` (N, J, h, w) float32 or None, with
    `teacher_seen` (N, 1, h, w) float32, 1 where the teacher's view reached.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    teacher: Tensor | None
    teacher_seen: Tensor | None


def make_batch(
    crops: Tensor,
    joints: Tensor,
    scores: Tensor,
    teacher: Tensor | None,
    *,
    size_wh: tuple[int, int],
    sigma: float,
    stride: int = HEATMAP_STRIDE,
    augmentation: Augmentation,
    generator: torch.Generator,
    joint_names: tuple[str, ...] = COCO_KEYPOINTS,
    rounded: bool = False,
) -> Batch:
    """Augmented batch from cached arrays.

    `crops` (N, H, W, 3) uint8 BGR, `joints` (N, J, 3), `scores` (N, J), `teacher`
    (N, J, 64, 48) uint8 or None; `sigma` in heatmap pixels; a heatmap pixel is `stride` input
    pixels; `joint_names` (J,); `rounded` draws HRNet's targets (see `targets.py`).
    """
    mirrored = torch.from_numpy(flip_order(joint_names)).to(joints.device)
    lower = torch.tensor([name.endswith(_LOWER) for name in joint_names], device=joints.device)
    whole = _extent_of(crops)
    joints, shown = _cut(joints, whole, augmentation, generator)
    cut = (shown != whole).any(1)
    affine, flipped = _draw_affine(joints, lower, shown, cut, size_wh, augmentation, generator)
    images = soften(_pictures(crops, shown, affine, size_wh), augmentation.soften, generator)
    images = jitter(images, augmentation.colour, generator)
    images = erase(images, augmentation.erase, generator)
    points, visible = _joints_in_input(joints, affine, flipped, mirrored)
    known = torch.where(flipped[:, None], scores[:, mirrored], scores)
    draw_targets = rounded_targets if rounded else exact_targets
    map_wh = (size_wh[0] // stride, size_wh[1] // stride)
    targets, counted = draw_targets(points / stride, map_wh, sigma)
    weights = counted * torch.where(visible == 2, 1.0, known) * (visible > 0)
    if teacher is None:
        return Batch(images, targets, weights, None, None)
    to_teacher = affine.clone()
    to_teacher[:, :, 2] -= torch.tensor(TEACHER_SHIFT, device=affine.device)
    to_teacher /= TEACHER_STRIDE
    taught = torch.where(flipped[:, None, None, None], teacher[:, mirrored], teacher).float()
    maps = _sample(taught, to_teacher, size_wh, stride=stride).div_(255)
    shift = torch.tensor(TEACHER_SHIFT, device=shown.device).repeat(2)
    left = _inside(torch.ones_like(teacher[:, :1]), (shown - shift) / TEACHER_STRIDE).float()
    seen = (_sample(left, to_teacher, size_wh, stride=stride) > 0.5).float()
    return Batch(images, targets, weights, maps, seen)


def _extent_of(crops: Tensor) -> Tensor:
    """x0, y0, x1, y1 (4,) of crops (N, H, W, 3) in the frame; wide ones reach beyond its sides."""
    width = CROP_WH[1] * crops.shape[2] / crops.shape[1]
    beyond = (width - CROP_WH[0]) / 2
    return torch.tensor([-beyond, 0.0, CROP_WH[0] + beyond, CROP_WH[1]], device=crops.device)


def _cut(
    joints: Tensor, extent: Tensor, aug: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """End the picture within some people, as photos do.

    Returns the joints, v = 0 beyond the edge, and (N, 4) x0, y0, x1, y1: what is left of `extent`.
    """
    n, device = len(joints), joints.device
    whole = extent.repeat(n, 1)
    seen = joints[..., 2] > 0
    low, high = _extent(joints, seen)
    side = torch.multinomial(
        torch.tensor([0.2, 0.1, 0.2, 0.5], device=device), n, replacement=True, generator=generator
    )
    axis = side % 2
    share = uniform(n, 0.3, 0.9, generator)
    rows = torch.arange(n, device=device)
    size = (high - low)[rows, axis]
    far = side >= 2
    edge = low[rows, axis] + size * torch.where(far, share, 1 - share)
    along = joints[rows, :, axis]
    kept = seen & torch.where(far[:, None], along < edge[:, None], along > edge[:, None])
    cut = (kept.sum(1) >= 4) & (uniform(n, 0, 1, generator) < aug.cut)
    shown = whole.clone()
    shown[rows, side] = torch.where(cut, edge, whole[rows, side])
    visible = torch.where(cut[:, None] & ~kept, 0.0, joints[..., 2])
    return torch.cat([joints[..., :2], visible[..., None]], 2), shown


def _extent(joints: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest coordinates (N, 2) of the chosen joints."""
    far = torch.full_like(joints[..., :2], 1e4)
    low = torch.where(chosen[..., None], joints[..., :2], far).amin(1)
    high = torch.where(chosen[..., None], joints[..., :2], -far).amax(1)
    return low, high


def _inside(maps: Tensor, shown: Tensor) -> Tensor:
    """Zero where `maps` (N, C, H, W) lie outside x0, y0, x1, y1 of `shown` (N, 4)."""
    height, width = maps.shape[2:]
    cut = (shown[:, :2] > 0).any(1) | (shown[:, 2] < width - 1) | (shown[:, 3] < height - 1)
    if not bool(cut.any()):
        return maps
    xs = torch.arange(width, device=maps.device)
    ys = torch.arange(height, device=maps.device)
    x0, y0, x1, y1 = shown[cut].unsqueeze(2).unbind(1)
    in_x, in_y = (xs >= x0) & (xs <= x1), (ys >= y0) & (ys <= y1)
    left = maps.clone()
    left[cut] *= in_y[:, None, :, None] & in_x[:, None, None, :]
    return left


def _pictures(crops: Tensor, shown: Tensor, affine: Tensor, size_wh: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) float32 RGB of what is shown of each crop."""
    detail = crops.shape[1] / CROP_WH[1]
    corner = _extent_of(crops)[:2]
    shown, affine = (shown - corner.repeat(2)) * detail, affine.clone()
    affine[:, :, 2] -= corner
    affine *= detail
    affine[:, :, 2] += (detail - 1) / 2
    parts = zip(*(whole.split(_AT_ONCE) for whole in (crops, shown, affine)), strict=True)
    views = [
        _sample(_inside(crop.permute(0, 3, 1, 2), left).float(), to_crop, size_wh, stride=1)
        for crop, left, to_crop in parts
    ]
    return torch.cat(views)[:, [2, 1, 0]]


def _draw_affine(
    joints: Tensor,
    lower: Tensor,
    shown: Tensor,
    cut: Tensor,
    size_wh: tuple[int, int],
    aug: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(N, 2, 3) affine from input pixels to those of the frame, and (N,) bool: mirrored."""
    n, device = len(joints), joints.device
    centre = torch.tensor([(CROP_WH[0] - 1) / 2, (CROP_WH[1] - 1) / 2], device=device)
    centre = centre.repeat(n, 1)
    width = torch.full((n,), float(TEACHER_WH[0]), device=device)
    half_centre, half_width, possible = _half_body(joints, lower, generator)
    half = possible & (uniform(n, 0, 1, generator) < aug.half_body)
    cut_centre, cut_width = _rest(joints, shown)
    centre = torch.where(cut[:, None], cut_centre, centre)
    width = torch.where(cut, cut_width, width)
    centre = torch.where(half[:, None], half_centre, centre)
    width = torch.where(half, half_width, width)
    noise = torch.randn(n, generator=generator, device=device).clamp(-2, 2)
    factor = torch.exp(noise * aug.scale_std)
    if aug.linear_scale:
        factor = 1 + noise.clamp(-1, 1) * aug.scale_std
    # An input of another aspect shows the whole height as well.
    scale = factor * width * max(1 / size_wh[0], TEACHER_WH[1] / TEACHER_WH[0] / size_wh[1])
    shift = torch.stack([uniform(n, -1, 1, generator) for _ in range(2)], 1)
    centre = centre + shift * aug.shift * width[:, None]
    angle = torch.randn(n, generator=generator, device=device).clamp(-2, 2) * aug.rotation_std
    turned = uniform(n, 0, 1, generator) < aug.rotation
    angle = torch.where(turned, angle, torch.zeros_like(angle)) * (math.pi / 180)
    flipped = uniform(n, 0, 1, generator) < aug.flip
    mirror = torch.where(flipped, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    linear = torch.stack([cos * mirror, -sin, sin * mirror, cos], 1).reshape(n, 2, 2)
    middle = torch.tensor([(size_wh[0] - 1) / 2, (size_wh[1] - 1) / 2], device=device)
    return torch.cat([linear, centre[:, :, None] - (linear @ middle)[:, :, None]], 2), flipped


def _half_body(
    joints: Tensor, lower: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (N, 2) and width (N,) of the upper or lower body, and (N,) bool: enough joints.

    As in HRNet's code: the centre is the mean of the joints, and where a half has fewer than three,
    the other is taken.
    """
    choose_upper = uniform(len(joints), 0, 1, generator) < 0.7
    seen = joints[..., 2] > 0
    above, below = seen & ~lower, seen & lower
    take_upper = (choose_upper & (above.sum(1) >= 3)) | (below.sum(1) < 3)
    chosen = torch.where(take_upper[:, None], above, below)
    count = chosen.sum(1)
    possible = (seen.sum(1) > 8) & (count >= 2) & lower.any()
    centre = (joints[..., :2] * chosen[..., None]).sum(1) / count.clamp(min=1)[:, None]
    low, high = _extent(joints, chosen)
    size = (high - low).clamp(min=16.0)
    width = torch.maximum(size[:, 0], size[:, 1] * TEACHER_WH[0] / TEACHER_WH[1]) * 1.5
    return centre, width.clamp(max=float(TEACHER_WH[0]) * 1.2), possible


def _rest(joints: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (N, 2) and padded width (N,) of what a cut left of a person."""
    low, high = _extent(joints, joints[..., 2] > 0)
    margin = 0.12 * (high - low).amax(1, keepdim=True) + 4
    low = torch.maximum(low - margin, shown[:, :2])
    high = torch.minimum(high + margin, shown[:, 2:])
    size = (high - low).clamp(min=16.0)
    width = torch.maximum(size[:, 0], size[:, 1] * TEACHER_WH[0] / TEACHER_WH[1]) * 1.25
    return (low + high) / 2, width


def _sample(maps: Tensor, affine: Tensor, size_wh: tuple[int, int], *, stride: int) -> Tensor:
    """Bilinear (N, C, H/stride, W/stride) view of `maps` through input-to-map affines."""
    width, height = size_wh[0] // stride, size_wh[1] // stride
    xs = torch.arange(width, device=maps.device) * float(stride)
    ys = torch.arange(height, device=maps.device) * float(stride)
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    places = torch.stack([grid_x, grid_y, torch.ones_like(grid_x)], -1).reshape(1, -1, 3)
    extent = torch.tensor([maps.shape[3] - 1, maps.shape[2] - 1], device=maps.device)
    to_unit = affine * (2 / extent)[:, None]  # -1 is the first pixel's centre, 1 the last one's
    to_unit[:, :, 2] -= 1
    grid = (places @ to_unit.transpose(1, 2)).reshape(len(maps), height, width, 2)
    return nn.functional.grid_sample(maps, grid, align_corners=True)


def _joints_in_input(
    joints: Tensor, affine: Tensor, flipped: Tensor, mirrored: Tensor
) -> tuple[Tensor, Tensor]:
    inverse = torch.linalg.inv(affine[:, :, :2])
    points = (joints[..., :2] - affine[:, None, :, 2]) @ inverse.transpose(1, 2)
    swapped = flipped[:, None]
    points = torch.where(swapped[..., None], points[:, mirrored], points)
    visible = torch.where(swapped, joints[:, mirrored, 2], joints[..., 2])
    return points, visible
