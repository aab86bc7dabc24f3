from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Decode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODE_UNSPECIFIED: _ClassVar[Decode]
    DECODE_DARK: _ClassVar[Decode]
    DECODE_QUARTER: _ClassVar[Decode]
    DECODE_ARGMAX: _ClassVar[Decode]

class StreamMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_MODE_UNSPECIFIED: _ClassVar[StreamMode]
    STREAM_MODE_LIVE: _ClassVar[StreamMode]
    STREAM_MODE_EVERY: _ClassVar[StreamMode]

class DropReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DROP_REASON_UNSPECIFIED: _ClassVar[DropReason]
    DROP_REASON_BUSY: _ClassVar[DropReason]
    DROP_REASON_RATE: _ClassVar[DropReason]
DECODE_UNSPECIFIED: Decode
DECODE_DARK: Decode
DECODE_QUARTER: Decode
DECODE_ARGMAX: Decode
STREAM_MODE_UNSPECIFIED: StreamMode
STREAM_MODE_LIVE: StreamMode
STREAM_MODE_EVERY: StreamMode
DROP_REASON_UNSPECIFIED: DropReason
DROP_REASON_BUSY: DropReason
DROP_REASON_RATE: DropReason

class EstimateOptions(_message.Message):
    __slots__ = ("model", "detector", "min_score", "min_keypoint_score", "max_people", "boxes", "flip_test", "decode")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MIN_KEYPOINT_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_PEOPLE_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    FLIP_TEST_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    model: str
    detector: str
    min_score: float
    min_keypoint_score: float
    max_people: int
    boxes: Boxes
    flip_test: bool
    decode: Decode
    def __init__(self, model: _Optional[str] = ..., detector: _Optional[str] = ..., min_score: _Optional[float] = ..., min_keypoint_score: _Optional[float] = ..., max_people: _Optional[int] = ..., boxes: _Optional[_Union[Boxes, _Mapping]] = ..., flip_test: _Optional[bool] = ..., decode: _Optional[_Union[Decode, str]] = ...) -> None: ...

class Boxes(_message.Message):
    __slots__ = ("boxes",)
    BOXES_FIELD_NUMBER: _ClassVar[int]
    boxes: _containers.RepeatedCompositeFieldContainer[Box]
    def __init__(self, boxes: _Optional[_Iterable[_Union[Box, _Mapping]]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x", "y", "width", "height")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    width: float
    height: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., width: _Optional[float] = ..., height: _Optional[float] = ...) -> None: ...

class EstimateRequest(_message.Message):
    __slots__ = ("image", "options")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    options: EstimateOptions
    def __init__(self, image: _Optional[bytes] = ..., options: _Optional[_Union[EstimateOptions, _Mapping]] = ...) -> None: ...

class EstimateResponse(_message.Message):
    __slots__ = ("poses",)
    POSES_FIELD_NUMBER: _ClassVar[int]
    poses: Poses
    def __init__(self, poses: _Optional[_Union[Poses, _Mapping]] = ...) -> None: ...

class Poses(_message.Message):
    __slots__ = ("model", "detector", "image", "people", "stages_ms", "total_ms")
    class StagesMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PEOPLE_FIELD_NUMBER: _ClassVar[int]
    STAGES_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    model: str
    detector: str
    image: ImageSize
    people: _containers.RepeatedCompositeFieldContainer[Person]
    stages_ms: _containers.ScalarMap[str, float]
    total_ms: float
    def __init__(self, model: _Optional[str] = ..., detector: _Optional[str] = ..., image: _Optional[_Union[ImageSize, _Mapping]] = ..., people: _Optional[_Iterable[_Union[Person, _Mapping]]] = ..., stages_ms: _Optional[_Mapping[str, float]] = ..., total_ms: _Optional[float] = ...) -> None: ...

class ImageSize(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Person(_message.Message):
    __slots__ = ("score", "box", "keypoints", "id", "smoothed")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    KEYPOINTS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SMOOTHED_FIELD_NUMBER: _ClassVar[int]
    score: float
    box: Box
    keypoints: _containers.RepeatedCompositeFieldContainer[Keypoint]
    id: int
    smoothed: _containers.RepeatedCompositeFieldContainer[Keypoint]
    def __init__(self, score: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., keypoints: _Optional[_Iterable[_Union[Keypoint, _Mapping]]] = ..., id: _Optional[int] = ..., smoothed: _Optional[_Iterable[_Union[Keypoint, _Mapping]]] = ...) -> None: ...

class Keypoint(_message.Message):
    __slots__ = ("name", "x", "y", "score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    x: float
    y: float
    score: float
    def __init__(self, name: _Optional[str] = ..., x: _Optional[float] = ..., y: _Optional[float] = ..., score: _Optional[float] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("options", "frame")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    options: StreamOptions
    frame: bytes
    def __init__(self, options: _Optional[_Union[StreamOptions, _Mapping]] = ..., frame: _Optional[bytes] = ...) -> None: ...

class StreamOptions(_message.Message):
    __slots__ = ("estimate", "mode", "track", "detect_every")
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TRACK_FIELD_NUMBER: _ClassVar[int]
    DETECT_EVERY_FIELD_NUMBER: _ClassVar[int]
    estimate: EstimateOptions
    mode: StreamMode
    track: bool
    detect_every: int
    def __init__(self, estimate: _Optional[_Union[EstimateOptions, _Mapping]] = ..., mode: _Optional[_Union[StreamMode, str]] = ..., track: _Optional[bool] = ..., detect_every: _Optional[int] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("result", "dropped", "error", "summary")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    result: FrameResult
    dropped: FrameDropped
    error: FrameError
    summary: StreamSummary
    def __init__(self, result: _Optional[_Union[FrameResult, _Mapping]] = ..., dropped: _Optional[_Union[FrameDropped, _Mapping]] = ..., error: _Optional[_Union[FrameError, _Mapping]] = ..., summary: _Optional[_Union[StreamSummary, _Mapping]] = ...) -> None: ...

class FrameResult(_message.Message):
    __slots__ = ("frame", "age_ms", "poses")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    POSES_FIELD_NUMBER: _ClassVar[int]
    frame: int
    age_ms: float
    poses: Poses
    def __init__(self, frame: _Optional[int] = ..., age_ms: _Optional[float] = ..., poses: _Optional[_Union[Poses, _Mapping]] = ...) -> None: ...

class FrameDropped(_message.Message):
    __slots__ = ("frame", "age_ms", "stages_ms", "reason")
    class StagesMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FRAME_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    STAGES_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    frame: int
    age_ms: float
    stages_ms: _containers.ScalarMap[str, float]
    reason: DropReason
    def __init__(self, frame: _Optional[int] = ..., age_ms: _Optional[float] = ..., stages_ms: _Optional[_Mapping[str, float]] = ..., reason: _Optional[_Union[DropReason, str]] = ...) -> None: ...

class FrameError(_message.Message):
    __slots__ = ("frame", "age_ms", "stages_ms", "type", "detail", "title", "status")
    class StagesMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FRAME_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    STAGES_MS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    frame: int
    age_ms: float
    stages_ms: _containers.ScalarMap[str, float]
    type: str
    detail: str
    title: str
    status: int
    def __init__(self, frame: _Optional[int] = ..., age_ms: _Optional[float] = ..., stages_ms: _Optional[_Mapping[str, float]] = ..., type: _Optional[str] = ..., detail: _Optional[str] = ..., title: _Optional[str] = ..., status: _Optional[int] = ...) -> None: ...

class StreamSummary(_message.Message):
    __slots__ = ("frames", "results", "errors", "dropped_busy", "dropped_rate", "age_p50_ms", "age_p95_ms")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BUSY_FIELD_NUMBER: _ClassVar[int]
    DROPPED_RATE_FIELD_NUMBER: _ClassVar[int]
    AGE_P50_MS_FIELD_NUMBER: _ClassVar[int]
    AGE_P95_MS_FIELD_NUMBER: _ClassVar[int]
    frames: int
    results: int
    errors: int
    dropped_busy: int
    dropped_rate: int
    age_p50_ms: float
    age_p95_ms: float
    def __init__(self, frames: _Optional[int] = ..., results: _Optional[int] = ..., errors: _Optional[int] = ..., dropped_busy: _Optional[int] = ..., dropped_rate: _Optional[int] = ..., age_p50_ms: _Optional[float] = ..., age_p95_ms: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "task", "description", "default", "input_width", "input_height", "keypoints", "score", "licence", "sha256", "card_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    KEYPOINTS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CARD_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    task: str
    description: str
    default: bool
    input_width: int
    input_height: int
    keypoints: _containers.RepeatedScalarFieldContainer[str]
    score: str
    licence: str
    sha256: str
    card_json: str
    def __init__(self, name: _Optional[str] = ..., task: _Optional[str] = ..., description: _Optional[str] = ..., default: _Optional[bool] = ..., input_width: _Optional[int] = ..., input_height: _Optional[int] = ..., keypoints: _Optional[_Iterable[str]] = ..., score: _Optional[str] = ..., licence: _Optional[str] = ..., sha256: _Optional[str] = ..., card_json: _Optional[str] = ...) -> None: ...
