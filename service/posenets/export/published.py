"""Another's HRNet checkpoint -> a checkpoint that is exported like ours, its weights untouched."""

from pathlib import Path
from typing import Any

from posegate.card import Training
from posegate.catalog import sha256_of
from posenets.networks import NETWORKS
from posenets.networks.published_hrnet import is_published
from posenets.training.checkpoint import BadCheckpoint, load_checkpoint, renamed, weights_in
from posenets.training.recipe import Phase, PoseRecipe
from posenets.training.records import BadData

KNOWN = tuple(name for name in NETWORKS if name.startswith("hrnet-"))
"""The networks of the table that `networks/published_hrnet.py` has a key map for."""


def published_state(path: Path, network: str) -> dict[str, Any]:
    """`ema` and `recipe` as in a checkpoint of ours; raises BadCheckpoint or BadData.

    Nothing was trained by the recipe: it tells the network and its input.
    `udp` is set where mmpose's config in the file, or the name it gave the file, says that the
    heatmaps were drawn so.
    """
    if network not in KNOWN:
        raise BadData(f"--network: {network!r} has no key map; {', '.join(KNOWN)} have one")
    state = load_checkpoint(path)
    if "recipe" in state:
        raise BadCheckpoint(f"{path}: is a checkpoint of train, which tells its network itself")
    weights = weights_in(state, path)
    if not is_published(weights):
        raise BadCheckpoint(f"{path}: holds no HRNet's weights under published names")
    width, height = NETWORKS[network].size_wh
    recipe = PoseRecipe(
        task="pose",
        network=network,
        examples=1,
        phases=(Phase(width=width, height=height, share=1),),
    )
    meta = state.get("meta")
    config = meta.get("cfg") if isinstance(meta, dict) else None
    return {
        "ema": renamed(weights, path),
        "recipe": recipe.model_dump_json(),
        "udp": "UDPHeatmap" in str(config) or "_udp-" in path.name,
    }


def published_training(path: Path, told: Training) -> Training:
    """What the card says of the making: the file, and what the user told of it."""
    source = f"Weights not trained here: from {path.name}, sha256 {sha256_of(path)}."
    notes = f"{source} {told.notes}".strip()
    licence = told.licence or "that of the file's publisher"
    return told.model_copy(update={"notes": notes, "licence": licence})
