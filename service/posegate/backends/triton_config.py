"""model card -> `config.pbtxt`, which tells Triton how to serve the network.

No platform is named: Triton takes `model.plan` or `model.onnx`, whichever lies in the version
folder, so that a plan can replace the ONNX file without another edit. To write the files of a whole
repository: `python -m posegate.backends.triton_config model_repository`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from posegate.backends.onnx import graph_outputs
from posegate.card import ModelCard
from posegate.catalog import CONFIG_NAME, Model, load_catalog
from posegate.errors import PosegateError

MAX_BATCH = 32
PREFERRED = (8, 16, 32)
QUEUE_DELAY_US = 1000
QUEUE_TIMEOUT_US = 30_000_000
QUEUE_SIZE = 512
WARM_UP_BATCHES = (1, 8)


def write_configs(repository: Path) -> list[Path]:
    """Write every network's `config.pbtxt`, decoded variants too; returns what was written."""
    models = load_catalog(repository).models.values()
    return [write_config(form) for model in models for form in model.forms]


def write_config(model: Model) -> Path:
    """Write the network's `config.pbtxt`; raises BadCard where its file is not the card's."""
    path = model.folder / CONFIG_NAME
    path.write_text(render_config(model), encoding="utf-8")
    return path


def render_config(model: Model) -> str:
    """Text of the network's `config.pbtxt`, all sizes without the batch axis.

    Triton's ONNX Runtime takes an output only with the very sizes of the file, and -1 only where
    the file leaves one open. Raises BadCard where the file is not the card's.
    """
    card = model.card
    _, height, width = card.input_shape
    outputs = ",\n".join(
        _tensor(name, output.shape, "FP16" if output.half else "FP32")
        for name, output in graph_outputs(model).items()
    )
    warm_up = ",\n".join(_warm_up(card, batch) for batch in WARM_UP_BATCHES)
    return f"""\
# Made from posegate.json. No platform: model.plan or model.onnx decides.
name: "{card.name}"
max_batch_size: {MAX_BATCH}
input [
{_tensor(card.input.name, (3, height, width), "FP32")}
]
output [
{outputs}
]
instance_group [ {{ count: 1 }} ]
dynamic_batching {{
  preferred_batch_size: [ {", ".join(map(str, PREFERRED))} ]
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
  default_queue_policy {{
    timeout_action: REJECT
    default_timeout_microseconds: {QUEUE_TIMEOUT_US}
    allow_timeout_override: true
    max_queue_size: {QUEUE_SIZE}
  }}
}}
model_warmup [
{warm_up}
]
"""


def _tensor(name: str, shape: tuple[int | None, ...], kind: str) -> str:
    dims = ", ".join("-1" if size is None else str(size) for size in shape)
    return f"  {{ name: {_text(name)} data_type: TYPE_{kind} dims: [ {dims} ] }}"


def _warm_up(card: ModelCard, batch: int) -> str:
    dims = ", ".join(map(str, card.input_shape))
    return (
        f'  {{ name: "batch-{batch}" batch_size: {batch} inputs {{ key: {_text(card.input.name)}\n'
        f"    value {{ data_type: TYPE_FP32 dims: [ {dims} ] zero_data: true }} }} }}"
    )


def _text(value: str) -> str:
    """In quotes, as protobuf's text form has it."""
    return json.dumps(value, ensure_ascii=False)


def main(arguments: Sequence[str]) -> None:
    """The command line; ends with a sentence where there is nothing to write."""
    if len(arguments) != 1:
        sys.exit("usage: python -m posegate.backends.triton_config MODEL_REPOSITORY")
    try:
        for written in write_configs(Path(arguments[0])):
            print(written)
    except PosegateError as error:
        sys.exit(f"error: {error.detail}")
    except OSError as error:
        sys.exit(f"error: {error.filename} cannot be written: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
