"""AP of a pose network with true boxes over `crop.padding` of its card.

    python benchmarks/crop_padding.py coco_val_part --models litedeconv-256x192 [--shifts 24]

A network answers differently when its crop moves by a pixel, and on a hundred people that hides the
effect of the padding. So the boxes are moved at random by up to 4 % of their longer side, the same
ways for every padding, and the figure is the mean AP over these shifts.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from posegate.build import running_pipeline
from posegate.catalog import CARD_NAME
from posegate.coco_labels import label_file
from posegate.evaluate import evaluate
from posegate.options import EstimateOptions
from posegate.settings import Settings, find_model_repository

SHIFT = 0.04
PADDINGS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25)


def write_shifted(labels: Path, seed: int, folder: Path) -> Path:
    """The labels with every box moved, beside the same photos."""
    random = np.random.default_rng(seed)
    content = json.loads(labels.read_text())
    for person in content["annotations"]:
        left, top, width, height = person["bbox"]
        dx, dy = random.uniform(-SHIFT, SHIFT, 2) * max(width, height)
        person["bbox"] = [left + dx, top + dy, width, height]
    folder.mkdir()
    (folder / "images").symlink_to((labels.parent / "images").resolve())
    (folder / "person_keypoints.json").write_text(json.dumps(content))
    return folder


def write_padded(model: Path, padding: float, repository: Path) -> Path:
    """A repository of the model alone, its card with another padding."""
    copy = repository / model.name
    (copy / "1").mkdir(parents=True)
    (copy / "1" / "model.onnx").symlink_to((model / "1" / "model.onnx").resolve())
    card = json.loads((model / CARD_NAME).read_text())
    card["crop"]["padding"] = padding
    card.pop("decoded", None)
    (copy / CARD_NAME).write_text(json.dumps(card))
    return repository


async def measure(repository: Path, folders: list[Path]) -> list[float]:
    """AP on each of the folders."""
    settings = Settings(model_repository=repository)
    async with running_pipeline(settings) as pipeline:
        options = EstimateOptions()
        reports = [await evaluate(pipeline, folder, options) for folder in folders]
    return [report.keypoints["ap"] for report in reports]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a COCO folder, images/ and its labels")
    parser.add_argument("--repository", type=Path, default=find_model_repository())
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--paddings", nargs="+", type=float, default=PADDINGS)
    parser.add_argument("--shifts", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    labels = label_file(options.data)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        shifted = [write_shifted(labels, n, scratch / f"shift {n}") for n in range(options.shifts)]
        for model in options.models:
            for padding in options.paddings:
                repository = scratch / model / str(padding)
                write_padded(options.repository / model, padding, repository)
                found = asyncio.run(measure(repository, shifted))
                row: dict[str, Any] = {"model": model, "padding": padding}
                row |= {"ap": round(statistics.mean(found), 4), "each": found}
                print(json.dumps(row) if options.json else f"{model} {padding}: AP {row['ap']:.3f}")


if __name__ == "__main__":
    main()
