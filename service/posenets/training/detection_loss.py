"""Which points of the detector answer for which person, and the loss.

Task-aligned assignment (Feng et al., TOOD, ICCV 2021), varifocal score loss (Zhang et al., CVPR
2021), GIoU (Rezatofighi et al., CVPR 2019).
"""

import torch
from torch import Tensor

TOP_POINTS = 10
SCORE_POWER = 0.5
IOU_POWER = 4.0
BOX_WEIGHT = 2.0


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, G, A) IoU of xyxy boxes (N, G, 4) and (N, A, 4)."""
    a, b = boxes[:, :, None], others[:, None]
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = overlap.clamp(min=0).prod(-1)
    return shared / (_area(a) + _area(b) - shared).clamp(min=1e-6)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """(M,) generalised IoU of matched xyxy boxes (M, 4)."""
    overlap = torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(
        boxes[:, :2], others[:, :2]
    )
    shared = overlap.clamp(min=0).prod(-1)
    union = (_area(boxes) + _area(others) - shared).clamp(min=1e-6)
    hull = torch.maximum(boxes[:, 2:], others[:, 2:]) - torch.minimum(boxes[:, :2], others[:, :2])
    area = hull.clamp(min=0).prod(-1).clamp(min=1e-6)
    return shared / union - (area - union) / area


@torch.no_grad()
def assign(
    logits: Tensor, boxes: Tensor, centres: Tensor, people: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Target score (N, A), 0 at background, and the index (N, A) of the person of each point.

    `logits` (N, A), `boxes` (N, A, 4) xyxy, `centres` (A, 2), `people` (N, G, 4) xyxy padded to G,
    all in input pixels; `valid` (N, G) bool is false for the padding.
    """
    inside_low = centres[None, None] - people[:, :, None, :2]
    inside_high = people[:, :, None, 2:] - centres[None, None]
    inside = (torch.minimum(inside_low, inside_high).amin(-1) > 0) & valid[:, :, None]
    iou = pairwise_iou(people, boxes)
    fit = logits.sigmoid()[:, None] ** SCORE_POWER * iou**IOU_POWER * inside  # (N, G, A)
    chosen = torch.zeros_like(fit, dtype=torch.bool)
    top = fit.topk(TOP_POINTS, -1).indices
    chosen.scatter_(-1, top, True)
    chosen &= (fit > 1e-9) & inside
    fit_chosen = torch.where(chosen, fit, torch.zeros_like(fit))
    best_fit, owner = fit_chosen.max(1)  # (N, A)
    peak_fit = fit_chosen.amax(-1, keepdim=True).clamp(min=1e-9)
    peak_iou = torch.where(chosen, iou, torch.zeros_like(iou)).amax(-1, keepdim=True)
    scaled = fit_chosen / peak_fit * peak_iou
    target = scaled.gather(1, owner[:, None]).squeeze(1)
    return torch.where(best_fit > 0, target, torch.zeros_like(target)), owner


def detection_loss(
    logits: Tensor,
    boxes: Tensor,
    centres: Tensor,
    people: Tensor,
    valid: Tensor,
    ignored: Tensor,
) -> Tensor:
    """Score and box loss of a batch.

    `logits` (N, A), `boxes` (N, A, 4) xyxy input pixels, `people` (N, G, 4) and `valid` (N, G) as
    in `assign`; `ignored` (N, I, 4) regions whose background points teach nothing (empty boxes
    pad it).
    """
    target, owner = assign(logits, boxes, centres, people, valid)
    positive = target > 0
    low = centres[None, None] - ignored[:, :, None, :2]
    high = ignored[:, :, None, 2:] - centres[None, None]
    in_ignored = (torch.minimum(low, high).amin(-1) > 0).any(1)
    weight = torch.where(positive, target, 0.75 * logits.sigmoid().detach() ** 2)
    weight = weight * (positive | ~in_ignored)
    score_loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target, reduction="none"
    )
    norm = target.sum().clamp(min=1.0)
    matched = people.gather(1, owner[..., None].expand(-1, -1, 4))[positive]
    box_loss = ((1 - giou(boxes[positive], matched)) * target[positive]).sum()
    return ((score_loss * weight).sum() + BOX_WEIGHT * box_loss) / norm


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
