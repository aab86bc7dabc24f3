"""model_repository -> catalogue: which networks there are, each with its card checked."""

import hashlib
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

from pydantic import ValidationError

from posegate.card import ModelCard, Task
from posegate.errors import BadCard, UnknownModel
from posegate.validation import first_fault

CARD_NAME = "posegate.json"
CONFIG_NAME = "config.pbtxt"
ONNX_NAME = Path("1/model.onnx")
_LOCATION = b"\n\x08location"
"""The key of a StringStringEntryProto in TensorProto.external_data, as protobuf writes it."""


@dataclass(frozen=True, slots=True)
class Model:
    """One network: its card and the folder it was read from."""

    card: ModelCard
    folder: Path

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def onnx_path(self) -> Path:
        return self.folder / ONNX_NAME

    @property
    def decoded(self) -> "Model | None":
        """The same network with its decoding in the graph, where its card speaks of it.

        Its files may be missing here: only Triton runs them, from a folder of its own perhaps.
        """
        card = self.card.with_decoding_in_the_graph()
        return Model(card, self.folder.with_name(card.name)) if card is not None else None

    @property
    def forms(self) -> "tuple[Model, ...]":
        """Itself and, where the repository has it, the form that decodes in the graph."""
        decoded = self.decoded
        return (self,) if decoded is None or not decoded.folder.is_dir() else (self, decoded)


class Catalog:
    """The networks of one repository and the default one of each task."""

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        defaults: Mapping[Task, str | None],
        without_card: Mapping[str, Path] | None = None,
    ) -> None:
        """`defaults` may name the default network of a task; None leaves it to the cards.

        `without_card` are folders of the repository with a network file and no card, by name.
        """
        self.models = dict(sorted(models.items()))
        self._without_card = dict(without_card or {})
        self._defaults = {task: name for task, name in defaults.items() if name is not None}
        for task, name in self._defaults.items():
            self.get(name, task)

    def without_detector(self) -> str | None:
        """What cannot be answered where there is no detector; None where there is one.

        Raises UnknownModel where there is no pose network, as then nothing can be answered.
        """
        tasks = {model.card.task for model in self.models.values()}
        if "pose" not in tasks:
            raise UnknownModel(
                f"the model repository has no pose network{_first_of(self._without_card)}"
            )
        if "detect" not in tasks:
            return "no person detector: only requests that give their boxes are answered"
        return None

    def get(self, name: str | None, task: Task) -> Model:
        """The named network of that task, or the task's default when the name is None."""
        candidates = {n: m for n, m in self.models.items() if m.card.task == task}
        if name is None:
            name = self._defaults.get(task)
        if name is None and candidates:
            return min(candidates.values(), key=_preference)
        if name not in candidates:
            if name is not None:
                self._require_card(name)
            known = ", ".join(candidates) or "none"
            asked = "no network" if name is None else f"no network {name!r}"
            raise UnknownModel(f"there is {asked} for task {task!r}; known: {known}")
        return candidates[name]

    def named(self, name: str) -> Model:
        """The network of that name, whatever its task."""
        if name not in self.models:
            self._require_card(name)
            raise UnknownModel(f"there is no network {name!r}; known: {', '.join(self.models)}")
        return self.models[name]

    def is_default(self, model: Model) -> bool:
        """Whether it serves the requests that name no network for its task."""
        return self.get(None, model.card.task) is model

    def card_in_use(self, model: Model) -> ModelCard:
        """Its card; `default` says which network serves now, whatever the file says."""
        return model.card.model_copy(update={"default": self.is_default(model)})

    def _require_card(self, name: str) -> None:
        """Raise UnknownModel with advice where the network of that name only lacks its card."""
        file = self._without_card.get(name)
        if file is not None:
            raise UnknownModel(_no_card(file))


def load_catalog(
    repository: Path, *, model: str | None = None, detector: str | None = None
) -> Catalog:
    """Read every card of `<repository>/<name>/posegate.json` and check it against its file.

    `model` and `detector` override the default pose network and detector.
    """
    if not repository.is_dir():
        raise BadCard(f"there is no model repository at {repository}; set model_repository")
    folders = sorted(path.parent for path in repository.glob(f"*/{CARD_NAME}"))
    without_card = _without_card(repository)
    if not folders:
        hint = _first_of(without_card)
        raise BadCard(f"the model repository {repository} holds no <name>/{CARD_NAME}{hint}")
    models = {folder.name: _load_model(folder) for folder in folders}
    for model_of in models.values():
        for form in model_of.forms:
            without_card.pop(form.name, None)
    defaults: dict[Task, str | None] = {"pose": model, "detect": detector}
    return Catalog(models, defaults=defaults, without_card=without_card)


def load_card(path: Path) -> ModelCard:
    """Read one card; BadCard names the file, the field and what is wrong with it."""
    try:
        return ModelCard.model_validate_json(path.read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        raise BadCard(f"card {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BadCard(f"card {path}: {first_fault(error, 'card')}") from error


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(model: Model) -> None:
    """Raise BadCard where the network's file is missing or not the one of its card."""
    if not model.onnx_path.is_file():
        raise BadCard(f"the card of {model.name} has no network file {model.onnx_path}")
    actual = sha256_of(model.onnx_path)
    if actual != model.card.sha256:
        raise BadCard(
            f"network file {model.onnx_path} has sha256 {actual}, its card says "
            f"{model.card.sha256}; restore the file or correct the card"
        )
    if _keeps_weights_elsewhere(model.onnx_path):
        raise BadCard(
            f"network file {model.onnx_path} keeps weights in a file beside it, which sha256 does "
            "not cover; make one file of them: torch.onnx.export(..., external_data=False), or "
            "onnx.save(onnx.load('mine.onnx'), 'model.onnx')"
        )


def _load_model(folder: Path) -> Model:
    model = Model(load_card(folder / CARD_NAME), folder)
    if model.name != folder.name:
        raise BadCard(f"card {folder / CARD_NAME}: name {model.name!r} is not its folder's name")
    for form in model.forms:
        check_file(form)
    return model


def _without_card(repository: Path) -> dict[str, Path]:
    """The network file, relative to the repository, of each folder that has no card."""
    found = {}
    for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
        if not (folder / CARD_NAME).is_file():
            files = sorted([*folder.glob("*.onnx"), *folder.glob("*/*.onnx")])
            if files:
                found[folder.name] = files[0].relative_to(repository)
    return found


def _first_of(without_card: Mapping[str, Path]) -> str:
    """What the first network without a card lacks, behind a complaint; nothing if there is none."""
    return "".join(f"; {_no_card(file)}" for file in list(without_card.values())[:1])


def _no_card(file: Path) -> str:
    name = file.parts[0]
    return (
        f"network {name!r} has a file {file} and no card {name}/{CARD_NAME}, which says how it is "
        f"fed and read; `posenets export` writes one, and another network's card shows the fields "
        f"(sha256 is that of {name}/{ONNX_NAME})"
    )


def _keeps_weights_elsewhere(path: Path) -> bool:
    """Whether a tensor of the file names the place of its data: ONNX's external data."""
    if not path.stat().st_size:  # which cannot be mapped
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(_LOCATION) >= 0


def _preference(model: Model) -> tuple[bool, float, str]:
    return not model.card.default, -model.card.best_ap, model.name
