"""Query options and headers -> what the pipeline and the renderer are asked for."""

import json
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import Annotated, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import ErrorDetails

from posegate.errors import BadOption
from posegate.options import DEFAULT_MAX_PEOPLE, MAX_NAME, EstimateOptions
from posegate.streams import MAX_DETECT_EVERY, StreamOptions
from posegate.types import F32
from posegate.validation import fault

Score = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
FAR = 1e30
"""Numbers beyond this, which float32 might not hold, are still beyond what any check allows."""
MAX_TEXT = 65_536
"""Characters of a stream's text message; the head of an HTTP request may hold as many."""
MAX_BOXES = MAX_TEXT // len("[1,2,3,4],")
"""As many as fit into such a text; reading them takes up to 10 ms of the event loop."""
MOST_TOLD = 10
"""How many wrong options one error names."""
PictureFormat = Literal["jpeg", "png"]
FORMS: dict[str, PictureFormat | None] = {
    "application/json": None,
    "image/jpeg": "jpeg",
    "image/png": "png",
}


BOXES_SCHEMA: dict[str, object] = {
    "anyOf": [
        {
            "type": "array",
            "items": {
                "type": "array",
                "items": {"type": "number"},
                "minItems": 4,
                "maxItems": 4,
            },
        },
        {"type": "null"},
    ]
}


class PoseQuery(BaseModel):
    """The query options of both POST routes, as the contract names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None, max_length=MAX_NAME, description="Pose network; the default one when left out."
    )
    detector: str | None = Field(
        None, max_length=MAX_NAME, description="Person detector; the default one when left out."
    )
    min_score: Score = Field(0.3, description="People of a lower score are left out.")
    min_keypoint_score: Score = Field(
        0.0, description="Keypoints with a lower score are left out (score 0 in `format=coco`)."
    )
    max_people: int = Field(
        DEFAULT_MAX_PEOPLE,
        ge=1,
        description="Most people answered: those the detector is surest of. Boxes in which the "
        "network finds nobody, or somebody once more, give way to the next.",
    )
    boxes: str | None = Field(
        None,
        description="JSON list of `[x, y, width, height]` in pixels of the upright image: "
        "the detector is skipped, and people come in this order, one for each box. A box wholly "
        "outside the picture is refused.",
        examples=["[[12, 40.5, 210.3, 400.9]]"],
    )
    flip_test: bool = Field(False, description="Average with the mirrored crop: slower, better.")
    decode: Literal["dark", "quarter", "argmax"] = Field(
        "dark", description="How a heatmap becomes a position."
    )
    format: Literal["poses", "coco"] = Field(
        "poses", description="`coco` answers a list in COCO results form."
    )

    def to_options(self) -> EstimateOptions:
        return EstimateOptions(
            model=self.model,
            detector=self.detector,
            min_score=self.min_score,
            min_keypoint_score=self.min_keypoint_score,
            max_people=self.max_people if "max_people" in self.model_fields_set else None,
            boxes_xywh=None if self.boxes is None else parse_boxes(self.boxes),
            flip_test=self.flip_test,
            decode=self.decode,
        )


class StreamQuery(PoseQuery):
    """The options that the first message of a stream may hold."""

    boxes: Annotated[str | None, WithJsonSchema(BOXES_SCHEMA)] = Field(
        None,
        description="List of `[x, y, width, height]` in pixels of the upright frame: the detector "
        "is skipped.",
    )
    mode: Literal["live", "every"] = Field(
        "live", description="live: the newest frame wins; every: no frame is dropped."
    )
    track: bool = Field(False, description="Adds a stable id and smoothed keypoints.")
    detect_every: int = Field(
        1,
        ge=1,
        le=MAX_DETECT_EVERY,
        description="With track: run the detector on one of so many frames, follow in between.",
    )

    @field_validator("min_score", "min_keypoint_score", "max_people", "detect_every", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    @field_validator("boxes", mode="before")
    @classmethod
    def _boxes_may_be_a_list(cls, value: object) -> object:
        return json.dumps(value) if isinstance(value, list) else value

    def to_stream_options(self) -> StreamOptions:
        return StreamOptions(
            estimate=self.to_options(),
            mode=self.mode,
            track=self.track,
            detect_every=self.detect_every,
        )


DEFAULT_STREAM = StreamQuery.model_validate({})


def parse_stream_query(text: str) -> StreamQuery:
    """The JSON object of a stream's first message; BadOption says which option is wrong."""
    try:
        return StreamQuery.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors()[:MOST_TOLD]
        raise BadOption("; ".join(_wrong_option(item) for item in wrong)) from error


def check_given_once(items: Iterable[tuple[str, str]]) -> None:
    """BadOption where an option comes twice: which of its values was meant is anybody's guess."""
    for name, count in Counter(name for name, _ in items).items():
        if count > 1:
            times = "twice" if count == 2 else f"{count} times"
            raise BadOption(f"query option {name[:80]!r} is given {times}; give it once")


def parse_boxes(text: str) -> F32:
    """JSON list of `[x, y, width, height]` -> (P, 4) float32, in pixels of the upright image.

    Whether the numbers make sense as boxes is judged by `EstimateOptions`.

    >>> parse_boxes("[[1, 2, 30, 40.5]]").tolist()
    [[1.0, 2.0, 30.0, 40.5]]
    """
    try:
        rows = json.loads(text, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise BadOption(f"boxes is not JSON ({error}); send [[x,y,width,height],...]") from error
    if not isinstance(rows, list) or not all(_is_box(row) for row in rows):
        raise BadOption("boxes must be a JSON list of [x,y,width,height], four numbers each")
    boxes = np.array(rows, np.float64).reshape(-1, 4)
    return boxes.clip(-FAR, FAR).astype(np.float32)


def picture_format(accept: str) -> PictureFormat | None:
    """The picture format that an `Accept` header prefers, or None for JSON.

    >>> picture_format("image/png, application/json;q=0.5")
    'png'
    >>> picture_format("*/*") is None
    True
    >>> picture_format("image/jpeg;q=0, image/*")
    'png'
    """
    ranges = _ranges(accept)
    chosen, best = None, (0.0, 0)
    for media_type, form in FORMS.items():
        for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
            if name in ranges:
                chosen, best = max((chosen, best), (form, ranges[name]), key=itemgetter(1))
                break
    return chosen


def _wrong_option(item: ErrorDetails) -> str:
    name = ".".join(str(part) for part in item["loc"])[:80]
    if item["type"] == "extra_forbidden":
        return f"option {name!r} is unknown; allowed: {', '.join(StreamQuery.model_fields)}"
    if not name:
        return f"the first text message must be a JSON object of options: {fault(item)}"
    return f"option {name!r}: {fault(item)}, got {str(item['input'])[:100]!r}"


def _is_box(row: object) -> bool:
    return isinstance(row, list) and len(row) == 4 and all(isinstance(x, float) for x in row)


def _ranges(accept: str) -> dict[str, tuple[float, int]]:
    """Each media range of an `Accept` header: its quality, and its place counted backwards.

    The range that is most specific for a type counts, and of equals the first (RFC 9110, 12.5.1).
    """
    ranges: dict[str, tuple[float, int]] = {}
    for place, entry in enumerate(accept.split(",")):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            ranges.setdefault(name, (float(quality), -place))
        except ValueError:
            continue
    return ranges
