"""How the learning rate changes over a run: linear warm-up, then a cosine or steps."""

import math

from posenets.training.recipe import Recipe


def rate_at(recipe: Recipe, seen: int) -> float:
    """Learning rate after that many of the run's examples."""
    begun = min(1.0, (seen + 1) / recipe.warmup)
    warm = recipe.warmup_from + (1 - recipe.warmup_from) * begun
    return recipe.learning_rate * warm * _SCHEDULES[recipe.schedule](recipe, seen)


def _cosine(recipe: Recipe, seen: int) -> float:
    done = min(seen / recipe.examples, 1.0)
    low = recipe.final_rate
    return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2


def _steps(recipe: Recipe, seen: int) -> float:
    now = seen / recipe.examples * recipe.length
    return recipe.factor ** sum(now >= milestone for milestone in recipe.milestones)


_SCHEDULES = {"cosine": _cosine, "steps": _steps}
