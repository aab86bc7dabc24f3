import numpy as np
import pytest
import torch

from posenets.training.loss import (
    WEIGHT_FUNCTIONS,
    distillation_loss,
    heatmap_weighting_loss,
    localisation_loss,
)


@pytest.mark.parametrize(
    ("weighting", "factor"),
    # F(G) + 1 at a pixel where G = 0.5 (equation 8)
    [("none", 1.0), ("x", 1.5), ("2x", 2.0), ("x2", 1.25), ("exp", 2.6487213)],
)
def test_weighting_of_one_pixel_is_equation_8(weighting: str, factor: float) -> None:
    target = torch.full((1, 1, 1, 1), 0.5)
    predicted = torch.full((1, 1, 1, 1), 0.1)
    loss = heatmap_weighting_loss(predicted, target, torch.ones(1, 1), weighting)
    assert loss.item() == pytest.approx(factor * 0.4**2, rel=1e-6)


def test_all_five_weight_functions_are_there() -> None:
    assert set(WEIGHT_FUNCTIONS) == {"none", "x", "2x", "x2", "exp"}


def test_unlabelled_joint_costs_nothing_and_gets_no_gradient() -> None:
    predicted = torch.rand(1, 2, 8, 6, requires_grad=True)
    target = torch.rand(1, 2, 8, 6)
    weights = torch.tensor([[1.0, 0.0]])
    for loss in (
        heatmap_weighting_loss(predicted, target, weights),
        localisation_loss(predicted, target, weights),
    ):
        predicted.grad = None
        loss.backward()
        assert predicted.grad is not None
        assert predicted.grad[0, 0].abs().sum() > 0
        assert predicted.grad[0, 1].abs().sum() == 0


def test_perfect_map_costs_nothing() -> None:
    target = torch.rand(2, 3, 8, 6)
    weights = torch.ones(2, 3)
    seen = torch.ones(2, 1, 8, 6)
    assert heatmap_weighting_loss(target, target, weights).item() == 0
    assert distillation_loss(target, target, seen).item() == 0
    assert localisation_loss(target, target, weights).item() == pytest.approx(0, abs=1e-6)


def test_teacher_teaches_only_where_it_looked() -> None:
    predicted = torch.zeros(1, 1, 4, 4, requires_grad=True)
    seen = torch.zeros(1, 1, 4, 4)
    seen[..., :2] = 1
    distillation_loss(predicted, torch.ones(1, 1, 4, 4), seen).backward()
    assert predicted.grad is not None
    assert (predicted.grad[..., :2] < 0).all()
    assert (predicted.grad[..., 2:] == 0).all()


def test_localisation_pulls_a_flat_map_towards_the_joint() -> None:
    predicted = torch.zeros(1, 1, 5, 5, requires_grad=True)
    target = torch.zeros(1, 1, 5, 5)
    target[0, 0, 1, 3] = 1
    localisation_loss(predicted, target, torch.ones(1, 1)).backward()
    assert predicted.grad is not None
    assert predicted.grad.flatten().argmin().item() == 1 * 5 + 3


def test_localisation_is_the_divergence_of_maps_sharpened_by_ten() -> None:
    """Sum of q log(q / p) per joint, q of the target; weighted, and the mean over all joints."""
    random = np.random.default_rng(0)
    predicted, target = random.uniform(0, 1, (2, 2, 3, 4, 5))
    weights = random.uniform(0, 1, (2, 3))
    p, q = (np.exp(10 * maps.reshape(2, 3, 20)) for maps in (predicted, target))
    p, q = (chances / chances.sum(-1, keepdims=True) for chances in (p, q))
    wanted = (weights * (q * np.log(q / p)).sum(-1)).sum() / 6
    found = localisation_loss(*map(torch.from_numpy, (predicted, target, weights)))
    assert found.item() == pytest.approx(wanted, rel=1e-9)
