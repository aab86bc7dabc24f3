"""Training recipes: one small TOML file each, every key typed, unknown keys refused."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from posenets.training.augment import Augmentation

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
Triple = tuple[float, float, float]


class BadRecipe(ValueError):
    """The recipe has an unknown key or a value out of range; the message names file and field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Phase(_Strict):
    """One input size, its batch, and the share of all examples seen at it."""

    width: int = Field(ge=64, multiple_of=32)
    height: int = Field(ge=64, multiple_of=32)
    share: float = Field(gt=0, le=1)
    batch: int = Field(default=32, ge=1)


class Recipe(_Strict):
    """What every run has: AdamW, linear warm-up, cosine, moving average, phases of input size.

    `examples` and `warmup` count augmented pictures; rates are per step.
    """

    network: str
    examples: int = Field(gt=0)
    phases: tuple[Phase, ...] = Field(min_length=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    backbone_rate: float = Field(default=0.5, ge=0, description="share for a started backbone")
    final_rate: float = Field(default=0.02, ge=0, le=1, description="share at the end")
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup: int = Field(default=6400, gt=0)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.998, ge=0, lt=1)
    source_weights: dict[str, float] = Field(default_factory=dict)
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    seed: int = 0

    def phase_at(self, seen: int) -> Phase:
        """The phase that a run is in after that many examples."""
        total = sum(phase.share for phase in self.phases)
        end = 0.0
        for phase in self.phases:
            end += phase.share / total
            if seen / self.examples < end:
                return phase
        return self.phases[-1]


class PoseRecipe(Recipe):
    """How a heatmap network is trained."""

    task: Literal["pose"]
    weighting: Literal["none", "x", "2x", "x2", "exp"] = "x"
    distil: float = Field(default=1.0, ge=0, description="weight of the teacher's heatmaps")
    localise: float = Field(default=3e-4, ge=0, description="weight of the localisation loss")
    augmentation: Augmentation = Augmentation()


class DetectionRecipe(Recipe):
    """How the person detector is trained."""

    task: Literal["detect"]
    mosaic: float = Field(default=0.5, ge=0, le=1)
    crop_share: float = Field(default=0.25, gt=0, description="chance of a crop against a photo")


RECIPE: TypeAdapter[PoseRecipe | DetectionRecipe] = TypeAdapter(
    Annotated[PoseRecipe | DetectionRecipe, Field(discriminator="task")]
)


def read_recipe(path: Path) -> PoseRecipe | DetectionRecipe:
    """Read and check a recipe; `task` says which kind. Raises BadRecipe."""
    try:
        return RECIPE.validate_python(tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, ValidationError, OSError) as error:
        raise BadRecipe(f"{path}: {error}") from error
