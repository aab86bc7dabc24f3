"""The papers' recipes hold what the papers say: service/posenets/recipes."""

from dataclasses import asdict

import pytest

from posenets.training.recipe import PoseRecipe, find_recipe, read_recipe

HRNET = {"flip": 0.5, "rotation_std": 45, "rotation": 0.6, "scale_std": 0.35, "half_body": 0.3}
LITEDECONV = HRNET | {"rotation_std": 40, "scale_std": 0.5}
PAPERS = {
    # optimiser, rate, epochs, milestones, factor, batch, loss, sparsity, augmentation
    "hrnet": ("adam", 1e-3, 210, (170, 200), 0.1, 32, "none", 0, HRNET),
    "nam-hrnet": ("adam", 1e-3, 280, (170, 230, 260), 0.4, 32, "none", 1e-4, HRNET),
    "goatpose": ("adam", 1e-3, 280, (170, 230, 260), 0.4, 32, "none", 1e-4, HRNET),
    "goatpose-384x288": ("adam", 1e-3, 280, (170, 230, 260), 0.4, 32, "none", 1e-4, HRNET),
    "gadnet": ("adamw", 1e-3, 260, (170,), 0.1, 48, "none", 0, HRNET | {"half_body": 0}),
    "le-hrnet": (
        *("adam", 1e-3, 230, (170, 210), 0.1, 32, "none", 0),
        HRNET | {"scale_std": 0, "half_body": 0},
    ),
    "litedeconv-paper": ("adam", 5e-4, 210, (170, 200), 0.1, 64, "x", 0, LITEDECONV),
    "litedeconv-mpii": (
        *("adam", 5e-4, 210, (170, 200), 0.1, 64, "x", 0),
        LITEDECONV | {"half_body": 0},
    ),
}
NETWORKS_AND_INPUTS = {
    "hrnet": ("hrnet-w32", "192x256"),
    "nam-hrnet": ("nam-hrnet", "192x256"),
    "goatpose": ("goatpose-bl", "192x256"),
    "goatpose-384x288": ("goatpose-bh", "288x384"),
    "gadnet": ("gadnet-w32", "192x256"),
    "le-hrnet": ("le-hrnet", "192x256"),
    "litedeconv-paper": ("litedeconv", "192x256"),
    "litedeconv-mpii": ("litedeconv-mpii", "256x256"),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_is_its_papers(name: str) -> None:
    recipe = read_recipe(find_recipe(name))
    assert isinstance(recipe, PoseRecipe)
    (phase,) = recipe.phases
    told = asdict(recipe.augmentation)
    optimiser, rate, epochs, milestones, factor, batch, loss, sparsity, augmentation = PAPERS[name]
    assert (recipe.optimiser, recipe.learning_rate) == (optimiser, rate)
    assert (recipe.schedule, recipe.epochs, recipe.milestones) == ("steps", epochs, milestones)
    assert (recipe.factor, phase.batch, recipe.weighting) == (factor, batch, loss)
    assert (recipe.sparsity, recipe.distil, recipe.localise) == (sparsity, 0, 0)
    assert {key: told[key] for key in augmentation} == augmentation
    assert (recipe.network, f"{phase.width}x{phase.height}") == NETWORKS_AND_INPUTS[name]
    assert recipe.weight_decay == (0.01 if optimiser == "adamw" else 0)
    assert recipe.backbone_rate == phase.share == 1
    slow = name.startswith("litedeconv")  # 500 batches of 64 from a thousandth of the rate
    assert (recipe.warmup, recipe.warmup_from if slow else 0) == (
        (32000, 0.001) if slow else (1, 0)
    )
    assert recipe.mean == pytest.approx([255 * level for level in (0.485, 0.456, 0.406)])
    assert recipe.std == pytest.approx([255 * level for level in (0.229, 0.224, 0.225)])
    assert told["linear_scale"] is (told["scale_std"] > 0)
    assert told["shift"] == told["colour"] == told["erase"] == told["cut"] == told["soften"] == 0
    assert recipe.rounded
    assert recipe.clip == float("inf")
    assert recipe.ema == 0
