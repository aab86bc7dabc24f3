"""The networks that `posegate models pull` knows, read from `published.toml` beside this file."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posegate.card import ModelCard
from posegate.errors import UnknownModel

LIST = Path(__file__).with_name("published.toml")


@dataclass(frozen=True, slots=True)
class Published:
    """A network somebody else offers.

    `url` is an ONNX file or a zip archive whose `member` is one; `member` may be the end of its
    path. `sha256` (hex, of the network file) is None where it is not known beforehand. `facts` are
    the card's fields without `name` and `sha256`.
    """

    name: str
    url: str
    member: str
    sha256: str | None
    facts: dict[str, Any]

    @property
    def licence(self) -> str:
        return str(self.facts["licence"])

    def card(self, sha256: str) -> ModelCard:
        """The card to serve the network by."""
        training = self.facts.get("training", {}) | {
            "licence": self.licence,
            "notes": f"pulled from {self.url}",
        }
        fields = self.facts | {"name": self.name, "training": training, "sha256": sha256}
        return ModelCard.model_validate(fields)


def published_networks() -> dict[str, Published]:
    """All of them by name; a network's own facts win over those of its family."""
    document = _document()
    families = document["families"]
    return {
        name: Published(
            name=name,
            url=entry["url"],
            member=families[entry["family"]]["member"],
            sha256=entry.get("sha256"),
            facts=families[entry["family"]]["card"] | entry["card"],
        )
        for name, entry in document["networks"].items()
    }


def find_published(name: str) -> Published:
    """The network of that name; UnknownModel says which there are, or why it cannot be served."""
    networks = published_networks()
    if name in networks:
        return networks[name]
    checkpoints = _document()["checkpoints"]
    for network, files in checkpoints["files"].items():
        asked = [file for file in files if name == network or file.startswith(f"{name}-")]
        if asked:
            raise UnknownModel(
                f"{name} is published as a PyTorch checkpoint only: fetch "
                f"{checkpoints['folder']}{asked[0]} and run `posenets export {asked[0]} "
                f"--network {network} --repository model_repository`"
            )
    raise UnknownModel(f"no published network {name!r} is known; known: {', '.join(networks)}")


def _document() -> dict[str, Any]:
    return tomllib.loads(LIST.read_text(encoding="utf-8"))
