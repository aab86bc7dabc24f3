"""A plan in its place -> running Tritons, which are told to load it."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from posegate.catalog import Model
from posegate.errors import BadOption
from posegate.plan_files import put_back

WAIT_S = 120.0
"""How long Tritons that are starting are waited for, over all networks, from the first failure."""
LOAD_LIMIT_S = 600.0
PROBE_TIMEOUT_S = 2.0
MOST_SAID = 300
"""Characters of Triton's own reason that are passed on."""


class NotLoaded(Exception):
    """A Triton cannot be told to load anything; what it serves is not known to have changed."""


class LoadRefused(Exception):
    """A Triton did not take what lies in the network's folder; it serves what it served before."""


class Loader(Protocol):
    """Makes running servers serve what lies in a network's folder."""

    def load(self, name: str) -> None:
        """Return when the network is served as it lies there, or raise one of the above."""
        ...


class TritonLoader:
    """All Tritons that read one model repository, started with `--model-control-mode=explicit`."""

    def __init__(
        self, urls: Sequence[str], *, wait_s: float = WAIT_S, load_limit_s: float = LOAD_LIMIT_S
    ) -> None:
        """`urls` are host:port of gRPC, each of one server."""
        try:
            import tritonclient.grpc as triton
            from tritonclient.utils import InferenceServerException
        except ImportError as error:
            raise BadOption(
                f"--triton-urls needs {error.name}, which is not installed: pip install "
                "'posegate[triton]'"
            ) from error
        self._open = triton.InferenceServerClient
        self._failure = InferenceServerException
        self._urls = urls
        self._wait_s = wait_s
        self._load_limit_s = load_limit_s
        self._waits_until: float | None = None

    def load(self, name: str) -> None:
        """A network that changed on disk is loaded anew, and served as before until it is ready."""
        for url in self._urls:
            self._load(url, name)

    def _load(self, url: str, name: str) -> None:
        with self._open(url) as client:
            while not self._is_live(client):
                if time.monotonic() >= self._end_of_waiting():
                    raise NotLoaded(
                        f"Triton at {url} cannot be reached; it loads what lies there when it "
                        "starts"
                    )
                time.sleep(0.5)
            try:
                client.load_model(name, client_timeout=self._load_limit_s)
            except self._failure as error:
                said = " ".join(str(error.message()).split())[:MOST_SAID]
                if "explicit model load" in said:
                    raise NotLoaded(
                        f"Triton at {url} takes no orders; start it with "
                        "--model-control-mode=explicit --load-model=*, or start it again to load "
                        "what lies there"
                    ) from error
                raise LoadRefused(f"Triton at {url} refused it: {said}") from error

    def _is_live(self, client: Any) -> bool:
        try:
            return bool(client.is_server_live(client_timeout=PROBE_TIMEOUT_S))
        except self._failure:
            return False

    def _end_of_waiting(self) -> float:
        if self._waits_until is None:
            self._waits_until = time.monotonic() + self._wait_s
        return self._waits_until


def fall_back(loader: Loader, model: Model) -> str:
    """Go back to the former plan, where that is refused too to the ONNX file; says to which."""
    refusal: str | None = ""
    is_plan = True
    while is_plan and refusal is not None:
        is_plan = put_back(model.onnx_path.parent, model.card.sha256)
        what = "the former plan" if is_plan else "the ONNX file"
        refusal = try_to_load(loader, model.name)
    return f"{what} serves again" if refusal is None else f"{what} is there again, but {refusal}"


def try_to_load(loader: Loader, name: str) -> str | None:
    """Why what lies in the network's folder is not served; None where it is."""
    try:
        loader.load(name)
    except (NotLoaded, LoadRefused) as error:
        return str(error)
    return None
