"""Shapes of the answers, as pydantic models: they describe the API in its OpenAPI document.

Answers are not validated against them at run time (the renderer writes JSON straight from arrays);
the wire tests do that instead.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from posegate.card import ModelCard

Box = Annotated[
    list[float], Field(min_length=4, max_length=4, description="[x, y, width, height] in pixels")
]
KeypointRow = Annotated[
    list[float], Field(min_length=3, max_length=3, description="[x, y, score], pixels and 0 to 1")
]


IMAGE_ID = (
    "The part's file name where those of all parts are different numbers (139 of "
    "`000000000139.jpg`), else the place of the part in the request, from 0. On a stream, the "
    "number of the frame."
)


PERSON_SCORE = "the box's score times the mean score of the surer half of the joints"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageSize(_Answer):
    """Size of the upright picture, in pixels."""

    width: int
    height: int


class Person(_Answer):
    """One person: how sure we are of them, where, and each joint by name."""

    score: float = Field(ge=0, le=1, description=PERSON_SCORE)
    box: Box
    keypoints: dict[str, KeypointRow]


class PosesAnswer(_Answer):
    """Everybody found in one picture."""

    model: str
    detector: str | None = Field(description="null when the request gave the boxes")
    image: ImageSize
    people: list[Person]
    stages_ms: dict[str, float]
    total_ms: float


class CocoResult(_Answer):
    """One person in COCO's keypoint results form."""

    image_id: int = Field(description=IMAGE_ID)
    category_id: int = Field(description="1, person")
    keypoints: list[float] = Field(description="x, y, score of every joint in the card's order")
    score: float = Field(description=PERSON_SCORE)


class ProblemAnswer(_Answer):
    """RFC 9457 problem document."""

    type: str = Field(description="stable slug")
    title: str
    status: int
    detail: str
    request_id: str


class BatchAnswer(_Answer):
    """One entry per image part, in the order sent."""

    results: list[PosesAnswer | list[CocoResult] | ProblemAnswer]


class ModelsAnswer(_Answer):
    """Every network of the repository."""

    models: list[ModelCard]


class Health(_Answer):
    """The service's own state."""

    status: str


class Ready(Health):
    """`missing` says which networks besides the default ones cannot run, and why."""

    missing: str | None = None
