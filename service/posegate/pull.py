"""A published network -> a folder of the model repository: download, check, unpack, card.

Everything happens in `<repository>/.pull`; the finished folder is renamed into place, so that a
reader of the repository sees the whole network or nothing. A download that is cut off stays there
as `<name>.part` and goes on where it stopped.
"""

import contextlib
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from posegate.backends.onnx import refuse_misfit
from posegate.backends.triton_config import write_config
from posegate.catalog import CARD_NAME, ONNX_NAME, Model, load_card, sha256_of
from posegate.errors import PosegateError
from posegate.published import Published

STAGING = ".pull"
MAX_BYTES = 2**30
TIMEOUT_S = 30.0
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that nobody uses
    RuntimeError,  # a member behind a password
)
OnBytes = Callable[[int, int | None], None]


class PullFailed(PosegateError):
    """The network could not be fetched; nothing of it is in the repository."""


def pull(
    network: Published,
    repository: Path,
    *,
    sha256: str | None = None,
    file: Path | None = None,
    on_bytes: OnBytes = lambda done, total: None,
) -> Model:
    """Bring a network into the repository, ready to be served; one that is there is left alone.

    `sha256` (hex, of the network file) replaces the one of the list. `file` is what lies at the
    network's address, fetched by other means; nothing is downloaded then. `on_bytes` hears how many
    bytes are there and how many there will be, None where the server does not say. Proxies are
    those of the environment (HTTPS_PROXY, ALL_PROXY, NO_PROXY).
    """
    target = repository / network.name
    if (target / CARD_NAME).is_file():
        return _present(target, sha256)
    staging = repository / STAGING
    part, folder = staging / f"{network.name}.part", staging / network.name
    try:
        if target.is_dir() and any(target.iterdir()):
            raise PullFailed(
                f"{target} is there without a card {CARD_NAME}; move the folder away and run the "
                "command again, or write its card"
            )
        staging.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if file is None:
            _download(network, part, on_bytes)
        with _removed_on_failure(folder, part if file is None else None):
            _unpack(network, file or part, folder / ONNX_NAME)
            model = _describe(network, folder, expected=sha256 or network.sha256)
            refuse_misfit(model)
            folder.rename(target)
        part.unlink(missing_ok=True)
    except OSError as error:
        raise PullFailed(
            f"cannot write to {repository}: {error.strerror or error}; copy it to where you "
            "may, and name that with --model-repository or POSEGATE_MODEL_REPOSITORY"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # not empty: a download to go on with, or another pull
            staging.rmdir()
    return Model(model.card, target)


def _present(target: Path, sha256: str | None) -> Model:
    card = load_card(target / CARD_NAME)
    if sha256 is not None and sha256.lower() != card.sha256:
        raise PullFailed(
            f"{target} holds a network of sha256 {card.sha256}, not {sha256}; remove the folder to "
            "pull it anew"
        )
    return Model(card, target)


def _download(network: Published, part: Path, on_bytes: OnBytes) -> None:
    """Fill `part`, from where an earlier try ended if the server can do so."""
    url = network.url
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    host = httpx.URL(url).host
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=TIMEOUT_S) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            part_of = answer.headers.get("Content-Range", "")
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                if part_of == f"bytes */{have}":
                    return
                part.unlink(missing_ok=True)
                raise PullFailed(f"the file at {host} has changed; run the command again")
            resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
            sound = part_of.startswith(f"bytes {have}-")
            if not (sound if resumed else answer.status_code == httpx.codes.OK):
                if resumed:
                    part.unlink(missing_ok=True)
                    raise PullFailed(
                        f"{host} answered {part_of or 'no range'} where bytes from {have} on were "
                        "asked for; run the command again to begin anew"
                    )
                raise PullFailed(f"{host} answered {answer.status_code} {part_of} for {url}")
            _copy(answer, part, have if resumed else 0, on_bytes)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise PullFailed(
            f"{host} cannot be reached ({error}); check the network, or name a proxy in "
            f"HTTPS_PROXY. Or fetch {url} elsewhere and run `posegate models pull {network.name} "
            f"--file {httpx.URL(url).path.rpartition('/')[2]}`"
        ) from error
    except httpx.TooManyRedirects as error:
        raise PullFailed(f"{host} leads from one address to the next without end") from error
    except (ValueError, ImportError) as error:
        raise PullFailed(f"the proxy of the environment cannot be used: {error}") from error
    except httpx.RequestError as error:
        size = part.stat().st_size if part.exists() else 0
        raise PullFailed(
            f"the download from {host} broke off after {size} bytes ({error}); run the command "
            "again to go on from there"
        ) from error


def _copy(answer: httpx.Response, part: Path, start: int, on_bytes: OnBytes) -> None:
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    if max(start, total or 0) > MAX_BYTES:
        part.unlink(missing_ok=True)
        raise PullFailed(f"{answer.url.host} offers more than {MAX_BYTES} bytes; not a network")
    done = start
    with part.open("ab" if start else "wb") as file:
        for block in answer.iter_raw():
            file.write(block)
            done += len(block)
            on_bytes(done, total)
            if done > MAX_BYTES:
                raise PullFailed(f"{answer.url.host} sends more than {MAX_BYTES} bytes")


@contextlib.contextmanager
def _removed_on_failure(folder: Path, part: Path | None) -> Iterator[None]:
    """What turned out wrong must not be taken up again by the next try.

    A download is not wrong because the disk did not take what it holds.
    """
    try:
        yield
    except (PosegateError, OSError) as error:
        if part is not None and isinstance(error, PosegateError):
            part.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _unpack(network: Published, fetched: Path, onnx: Path) -> None:
    """The network file itself, from an archive or as it came. No path of an archive is used."""
    onnx.parent.mkdir(parents=True)
    if not zipfile.is_zipfile(fetched):
        shutil.copyfile(fetched, onnx)
        return
    try:
        with zipfile.ZipFile(fetched) as archive:
            files = [
                entry
                for entry in archive.infolist()
                if f"/{entry.filename}".endswith(f"/{network.member}")
            ]
            if len(files) != 1 or files[0].file_size > MAX_BYTES:
                raise PullFailed(
                    f"the archive of {network.name} holds {len(files)} files {network.member}, not "
                    f"one of at most {MAX_BYTES} bytes"
                )
            with archive.open(files[0]) as source, onnx.open("wb") as file:
                shutil.copyfileobj(source, file)
    except _DAMAGED as error:
        raise PullFailed(f"the archive of {network.name} is damaged: {error}") from error


def _describe(network: Published, folder: Path, *, expected: str | None) -> Model:
    """Check the hash, then write card and Triton configuration."""
    actual = sha256_of(folder / ONNX_NAME)
    if expected is not None and actual != expected.lower():
        raise PullFailed(
            f"the network file of {network.name} has sha256 {actual}, expected {expected}; it was "
            "not taken. Do not use it unless its publisher confirms that hash; then pass --sha256"
        )
    card = network.card(actual)
    (folder / CARD_NAME).write_text(card.model_dump_json(indent=2, exclude_none=True) + "\n")
    model = Model(card, folder)
    write_config(model)
    return model
