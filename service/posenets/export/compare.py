"""Is a served ONNX file still the network it was made from? The weights lie beside its card."""

from pathlib import Path

import torch

from posegate.catalog import CARD_NAME, ONNX_NAME, Model, check_file, load_card
from posenets.export.checkpoint import START_FILE, served_network
from posenets.export.onnx import largest_difference
from posenets.training.checkpoint import load_checkpoint
from posenets.training.records import BadData


def compare_with_torch(folder: Path) -> float:
    """Largest difference between `training.pt` and `1/model.onnx`, of the outputs' range.

    Raises BadCard, BadData, BadCheckpoint or ExportDiffers.
    """
    card = load_card(folder / CARD_NAME)
    for path in (folder / START_FILE, folder / ONNX_NAME):
        if not path.is_file():
            raise BadData(f"{path} is missing; there is nothing to compare")
    check_file(Model(card, folder))
    network = served_network(load_checkpoint(folder / START_FILE), folder / START_FILE)
    network = network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return largest_difference(network, folder / ONNX_NAME, size_wh=card.input.size_wh)
