"""Training recipes: one small TOML file each, every key typed, unknown keys refused."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from posegate.card import Shift, Sigma, Spread, refuse_unit_range
from posegate.validation import fault
from posenets.training.augment import Augmentation

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
NotNegative = Annotated[float, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
RECIPES = Path(__file__).parents[1] / "recipes"
"""The recipes that come with posenets; `train` takes them by name."""


SIDE_STEP = 32
"""Input sides are multiples of it."""


class BadRecipe(ValueError):
    """The recipe has an unknown key or a value out of range; the message names file and field."""


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="constants", allow_inf_nan=False
    )

    @model_validator(mode="wrap")
    @classmethod
    def _numbers_are_numbers(cls, given: Any, make: ModelWrapValidatorHandler[Self]) -> Self:
        """Pydantic takes "24" for a number, and true for 1."""
        made = make(given)
        wrong = next(_taken_for_numbers(given, made.model_dump()), None)
        if wrong is not None:
            raise ValueError(wrong)
        return made


class Phase(_Strict):
    """One input size, its batch, and the share of all examples seen at it."""

    width: int = Field(ge=64, multiple_of=SIDE_STEP)
    height: int = Field(ge=64, multiple_of=SIDE_STEP)
    share: float = Field(gt=0, le=1)
    batch: int = Field(default=32, ge=1)
    stride: Literal[4, 8] = Field(
        default=4, description="input pixels per heatmap pixel; 8 for PoseFPN: half the cost"
    )


class Recipe(_Strict):
    """What every run has: optimiser, schedule, moving average, phases of input size.

    Its length is given in `examples`, augmented pictures, or in `epochs`, as many as there are in
    the data, drawn at random from caches; `milestones` of the step schedule are in the same unit.
    `warmup` counts examples and begins at `warmup_from` of the rate.
    """

    network: str
    examples: int = Field(default=0, ge=0, le=10**12)
    epochs: float = Field(default=0, ge=0)
    optimiser: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[NotNegative, ...] = ()
    factor: float = Field(default=0.1, gt=0, lt=1, description="of the rate at each milestone")
    phases: tuple[Phase, ...] = Field(min_length=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    backbone_rate: float = Field(default=0.5, ge=0, description="share for a started backbone")
    final_rate: float = Field(default=0.02, ge=0, le=1, description="share at the end")
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup: int = Field(default=6400, gt=0)
    warmup_from: float = Field(default=0.0, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=True, description="inf: none")
    ema: float = Field(default=0.998, ge=0, lt=1, description="of the moving average; 0: none")
    source_weights: dict[str, Weight] = Field(default_factory=dict)
    mean: tuple[Shift, Shift, Shift] = IMAGENET_MEAN
    std: tuple[Spread, Spread, Spread] = IMAGENET_STD
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _says_how_long(self) -> Self:
        if self.epochs == 0 and self.examples == 0:
            raise ValueError("one of examples and epochs is needed")
        if (self.schedule == "steps") != bool(self.milestones):
            raise ValueError('milestones belong to schedule = "steps"')
        return self

    @model_validator(mode="after")
    def _counts_in_0_to_255(self) -> Self:
        refuse_unit_range(self.mean, self.std)
        return self

    @property
    def length(self) -> float:
        """The run in the unit of its milestones."""
        return self.epochs or self.examples

    def for_data(self, people: int) -> Self:
        """The recipe with its length in examples, for that many labelled people or photos."""
        if not self.epochs:
            return self
        return self.model_copy(update={"examples": max(1, round(self.epochs * people))})

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
    sigma: Sigma | None = Field(default=None, description="of the targets, heatmap pixels")
    rounded: bool = Field(default=False, description="targets as HRNet's, on whole pixels")
    sparsity: float = Field(default=0.0, ge=0, description="p of NAM's penalty p * sum |gamma|")
    residual_start: float = Field(
        default=1.0, gt=0, le=1, description="scale of the residual branches at the start"
    )
    augmentation: Augmentation = Augmentation()


class DetectionRecipe(Recipe):
    """How the person detector is trained."""

    task: Literal["detect"]
    mosaic: float = Field(default=0.5, ge=0, le=1)
    crop_share: float = Field(default=0.25, gt=0, description="chance of a crop against a photo")

    @field_validator("phases")
    @classmethod
    def _square(cls, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        if any(phase.width != phase.height for phase in phases):
            raise ValueError("a detector learns from squares: width and height must be the same")
        return phases


RECIPE: TypeAdapter[PoseRecipe | DetectionRecipe] = TypeAdapter(
    Annotated[PoseRecipe | DetectionRecipe, Field(discriminator="task")]
)


def find_recipe(name: str) -> Path:
    """The file of a recipe given by its path, or by its name among those shipped."""
    shipped = {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return path
    if name not in shipped:
        raise BadRecipe(f"{name}: neither a .toml file nor one of {', '.join(shipped)}")
    return shipped[name]


def read_recipe(path: Path) -> PoseRecipe | DetectionRecipe:
    """Read and check a recipe; `task` says which kind. Raises BadRecipe."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        if "task" not in document:
            raise BadRecipe(f"{path}: task is missing; write task = 'pose' or task = 'detect'")
        recipe = RECIPE.validate_python(document)
    except ValidationError as error:
        raise BadRecipe(f"{path}: {first_fault(error)}") from error
    except OSError as error:
        raise BadRecipe(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise BadRecipe(f"{path}: not a TOML file ({error})") from error
    if recipe.epochs and recipe.examples:
        raise BadRecipe(f"{path}: examples and epochs both say how long; leave one out")
    late = [milestone for milestone in recipe.milestones if milestone >= recipe.length]
    if late:
        raise BadRecipe(f"{path}: milestones: {late[0]:g} is not before the end, {recipe.length:g}")
    return recipe


def _taken_for_numbers(given: Any, made: Any, place: str = "") -> Iterator[str]:
    """`field: what` of each text or truth value in what was given that was made a number."""
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        for name in given:
            yield from _taken_for_numbers(given[name], made[name], f"{place}.{name}")
    elif isinstance(given, list | tuple):
        for index, pair in enumerate(zip(given, made, strict=True)):
            yield from _taken_for_numbers(*pair, f"{place}.{index}")
    elif isinstance(given, str | bool) and type(made) in (int, float):
        yield f"{place.removeprefix('.')}: must be a number, not {given!r}"


def first_fault(error: ValidationError) -> str:
    """The first thing wrong with a recipe, or other facts of a user's, as `field: what`."""
    found = error.errors()[0]
    field = ".".join(str(part) for part in found["loc"] if part not in ("pose", "detect"))
    return f"{field}: {fault(found)}" if field else fault(found)
