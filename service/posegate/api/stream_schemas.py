"""Shapes of a stream's messages, as pydantic models: they describe it in the OpenAPI document."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from posegate.api.options import StreamQuery
from posegate.api.schemas import CocoResult, KeypointRow, Person, PosesAnswer

Age = Annotated[float, Field(ge=0, description="Milliseconds since the frame came.")]
Frame = Annotated[int, Field(ge=0, description="The frame's number; the first is 0.")]
Stages = dict[str, float]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamPerson(Person):
    """One person of a frame; `id` and `smoothed` come with the option `track`."""

    id: int | None = Field(None, description="The same person's number in every frame.")
    smoothed: dict[str, KeypointRow] | None = None


class StreamCocoResult(CocoResult):
    """The same in COCO's results form."""

    id: int | None = Field(None, description="The same person's number in every frame.")
    smoothed: list[float] | None = Field(None, description="x, y, score, as in `keypoints`.")


class PosesEvent(PosesAnswer):
    """A frame's people."""

    event: Literal["result"]
    frame: Frame
    age_ms: Age
    people: list[StreamPerson]  # type: ignore[assignment]  # a list of more detailed persons


class CocoEvent(_Message):
    """A frame's people with the option `format=coco`."""

    event: Literal["result"]
    frame: Frame
    age_ms: Age
    results: list[StreamCocoResult]
    stages_ms: Stages


class DroppedEvent(_Message):
    """A frame that was not looked at: a newer one took its place, or frames came too fast."""

    event: Literal["dropped"]
    frame: Frame
    age_ms: Age
    stages_ms: Stages
    reason: Literal["busy", "rate"]


class ErrorEvent(_Message):
    """What was wrong with a frame, with another message, or with the options (the stream ends)."""

    event: Literal["error"]
    frame: Frame | None = Field(description="null for a message that was no frame")
    age_ms: Age
    stages_ms: Stages
    type: str = Field(description="stable slug, as of a problem over HTTP")
    title: str
    status: int
    detail: str


class SummaryEvent(_Message):
    """The last event. The ages are those of the results, null where there was none."""

    event: Literal["summary"]
    frames: int
    results: int
    errors: int
    dropped: dict[Literal["busy", "rate"], int]
    age_ms: dict[Literal["p50", "p95"], float | None]


class StreamEvent(
    RootModel[PosesEvent | CocoEvent | DroppedEvent | ErrorEvent | SummaryEvent],
):
    """One text message of the service; one comes for every frame, in order, then the summary."""


class EndMessage(_Message):
    """The text message that asks for the summary and a clean close."""

    end: Literal[True]


MESSAGES = (StreamQuery, EndMessage, StreamEvent)
"""The text messages of both sides; frames are binary messages."""
