"""The model card (`posegate.json`): everything the service must know to run one network.

The card, not code, drives pre- and post-processing, so that bringing one's own ONNX network is
writing a card.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Task = Literal["pose", "detect"]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Shift = Annotated[float, Field(ge=-1000, le=1000)]
Spread = Annotated[float, Field(ge=1e-3, le=1000)]
Factor = Annotated[float, Field(ge=0.01, le=100)]
Sigma = Annotated[float, Field(ge=0.1, le=20)]
Name = Annotated[str, Field(min_length=1)]

PEAK_ROW = 4 + 13 + 11 * 11
"""Floats per joint that a graph which finds the peaks itself sends: see `codecs/peaks.py`."""


def refuse_unit_range(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """ValueError where these are meant for pixels of 0..1, as torchvision counts them."""
    if max(std) < 1 and max(map(abs, mean)) <= 1:
        raise ValueError("mean and std are of values 0..1; multiply them by 255")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Part):
    """Network input (n, 3, height, width) float32: `(x - mean) / std` of 0..255 values."""

    name: str = "input"
    width: PositiveInt
    height: PositiveInt
    color: Literal["rgb", "bgr"]
    mean: tuple[Shift, Shift, Shift]
    std: tuple[Spread, Spread, Spread]

    @model_validator(mode="after")
    def _counts_in_0_to_255(self) -> Self:
        refuse_unit_range(self.mean, self.std)
        return self

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.width, self.height


class CropSpec(_Part):
    """How a person is cut out: the box at the input's aspect ratio, times `padding`."""

    padding: Factor = 1.25


class LetterboxSpec(_Part):
    """How a picture is fitted: scaled into the top-left corner, the rest filled with `fill`."""

    fill: Annotated[int, Field(ge=0, le=255)] = 114


class OutputSpec(_Part):
    """Output names of the graph, in the order that the codec or the detector takes them."""

    names: tuple[str, ...] = Field(min_length=1)


class HeatmapSpec(_Part):
    """One heatmap per joint: `crop_px = heatmap_px * scale + offset`, `sigma` in heatmap px.

    `form` peaks: the graph finds the peaks itself and sends the rows of `codecs/peaks.py`.
    """

    kind: Literal["heatmap"]
    form: Literal["maps", "peaks"] = "maps"
    width: PositiveInt
    height: PositiveInt
    sigma: Sigma = 2.0
    scale: tuple[Factor, Factor] = (4.0, 4.0)
    offset: tuple[Shift, Shift] = (0.0, 0.0)


class SimccSpec(_Part):
    """One distribution per joint and axis: `crop_px = bin / split`, `sigma` in bins (x, y)."""

    kind: Literal["simcc"]
    split: Factor = 2.0
    sigma: tuple[Sigma, Sigma] = (6.0, 6.0)
    normalize: Literal["none", "softmax", "sigmoid"] = "none"


class NmsSpec(_Part):
    """What the detector gives, and which of its boxes stay.

    `boxes`: corners (n, A, 4) xyxy and scores (n, A), before suppression. `dets`: one output
    (n, D, 5), xyxy and score, suppressed inside the graph; `iou` 1 then keeps all of them.
    """

    kind: Literal["boxes", "dets"] = "boxes"
    iou: Fraction = 0.6
    min_score: Fraction = 0.05
    max_boxes: PositiveInt = 300


class Training(_Part):
    """What made the weights."""

    data: tuple[str, ...] = ()
    length: str = ""
    machine: str = ""
    licence: str = ""
    notes: str = ""


class Accuracy(_Part):
    """One measured figure; AP in [0, 1] as COCO defines it for the card's task."""

    data: str
    boxes: Literal["truth", "detector"] | None = None
    flip_test: bool = False
    decode: str | None = None
    input: str | None = None
    ap: Fraction
    ap50: Fraction | None = None
    ap75: Fraction | None = None
    ar: Fraction | None = None
    command: str | None = None


class Verification(_Part):
    """How far one form of the network lies from the one that was trained."""

    form: str
    max_abs_diff: float | None = None
    max_pixel_diff: float | None = None
    ap_diff: float | None = None
    note: str | None = None


class DecodedSpec(_Part):
    """The network with its decoding in the graph, beside it: `<name>-decoded/1/model.onnx`."""

    output: str = "decoded"
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ModelCard(_Part):
    """One network of the repository."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: Task
    description: str = ""
    default: bool = False
    input: InputSpec
    crop: CropSpec | None = None
    letterbox: LetterboxSpec | None = None
    output: OutputSpec
    codec: Annotated[HeatmapSpec | SimccSpec, Field(discriminator="kind")] | None = None
    nms: NmsSpec | None = None
    keypoints: tuple[Name, ...] = ()
    score: str
    parameters: PositiveInt
    gflops: Positive
    licence: str
    training: Training = Training()
    accuracy: tuple[Accuracy, ...] = ()
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    decoded: DecodedSpec | None = None
    verification: tuple[Verification, ...] = ()

    @model_validator(mode="after")
    def _has_the_parts_of_its_task(self) -> Self:
        needed = {"pose": ("crop", "codec", "keypoints"), "detect": ("letterbox", "nms")}
        missing = [part for part in needed[self.task] if not getattr(self, part)]
        if missing:
            raise ValueError(f"a {self.task} card needs {', '.join(missing)}")
        suppressed = self.nms is not None and self.nms.kind == "dets"
        outputs = 1 if suppressed or isinstance(self.codec, HeatmapSpec) else 2
        if len(self.output.names) != outputs:
            raise ValueError(f"output.names must hold {outputs} name(s) for this task and codec")
        if len(set(self.output.names)) != len(self.output.names):
            raise ValueError("output.names must not repeat a name")
        if self.decoded is not None and not isinstance(self.codec, HeatmapSpec):
            raise ValueError("decoded is for heatmap networks")
        if len(set(self.keypoints)) != len(self.keypoints):
            raise ValueError("keypoints must not repeat a name")
        return self

    def with_decoding_in_the_graph(self) -> "ModelCard | None":
        """The card of `<name>-decoded`, where there is one."""
        if self.decoded is None or self.codec is None:
            return None
        return self.model_copy(
            update={
                "name": f"{self.name}-decoded",
                "output": OutputSpec(names=(self.decoded.output,)),
                "codec": self.codec.model_copy(update={"form": "peaks"}),
                "sha256": self.decoded.sha256,
                "decoded": None,
            }
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(3, height, width) of one crop."""
        return 3, self.input.height, self.input.width

    @property
    def best_ap(self) -> float:
        """The highest AP on the card, 0 when nothing was measured."""
        return max((row.ap for row in self.accuracy), default=0.0)
