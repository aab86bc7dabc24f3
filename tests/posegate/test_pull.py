"""Published networks into the repository: posegate.pull, posegate.published, posegate.cli_pull."""

import errno
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fakes import POSE_NAME, pose_card
from posegate import cli_pull
from posegate.catalog import CONFIG_NAME, load_catalog
from posegate.cli import app
from posegate.errors import BadCard, UnknownModel
from posegate.published import Published, find_published, published_networks
from posegate.pull import STAGING, PullFailed, pull


class FileServer(ThreadingHTTPServer):
    """Serves one file at any path, with ranges; `cut_after` bytes of an answer it hangs up."""

    daemon_threads = True
    content: bytes = b""
    cut_after: int | None = None
    ranges: bool = True
    other_range: bool = False
    seen: list[tuple[str, str | None]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/made.zip"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.seen.append((self.path, asked))
        content, start = self.server.content, 0
        if self.path.endswith("/missing"):
            self.send_error(404)
            return
        if self.path.endswith("/round"):
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        if asked is not None and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            start = 0 if self.server.other_range else start
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut_after])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def network_file(repository: Path) -> bytes:
    return (repository / POSE_NAME / "1" / "model.onnx").read_bytes()


@pytest.fixture
def server(network_file: bytes) -> Iterator[FileServer]:
    with FileServer(("127.0.0.1", 0), _Handler) as server:
        server.seen = []
        server.content = archive(
            {"20230831/made/end2end.onnx": network_file, "pipeline.json": b"{}"}
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def archive(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return data.getvalue()


def published(url: str, sha256: str | None = None) -> Published:
    facts = {key: value for key, value in pose_card().items() if key != "name"}
    return Published("made-net", url, "end2end.onnx", sha256, facts)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def left_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_pulled_archive_becomes_a_network_of_the_catalogue(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    heard: list[tuple[int, int | None]] = []
    model = pull(
        published(server.url, sha(network_file)),
        tmp_path,
        on_bytes=lambda done, total: heard.append((done, total)),
    )
    assert model.onnx_path.read_bytes() == network_file
    assert heard[-1] == (len(server.content), len(server.content))
    card = load_catalog(tmp_path).get("made-net", "pose").card
    assert (card.sha256, card.licence) == (sha(network_file), "Apache-2.0")
    assert (card.training.licence, server.url in card.training.notes) == ("Apache-2.0", True)
    assert left_in(tmp_path / "made-net") == ["1", "1/model.onnx", CONFIG_NAME, "posegate.json"]
    assert not (tmp_path / STAGING).exists()


def test_a_plain_network_file_is_taken_as_it_is(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    server.content = network_file
    assert pull(published(server.url), tmp_path).card.sha256 == sha(network_file)


def test_what_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    first = pull(published(server.url), tmp_path)
    assert pull(published(server.url), tmp_path) == first
    assert len(server.seen) == 1
    with pytest.raises(PullFailed, match="remove the folder"):
        pull(published(server.url), tmp_path, sha256="0" * 64)


def test_an_interrupted_download_goes_on_where_it_stopped(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    server.cut_after = 700
    with pytest.raises(PullFailed, match="broke off after 700 bytes"):
        pull(published(server.url, sha(network_file)), tmp_path)
    assert left_in(tmp_path) == [STAGING, f"{STAGING}/made-net.part"]
    server.cut_after = None
    pull(published(server.url, sha(network_file)), tmp_path)
    assert [asked for _, asked in server.seen] == [None, "bytes=700-"]
    assert left_in(tmp_path)[0] == "made-net"


def test_a_server_without_ranges_sends_the_whole_file_again(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    server.cut_after, server.ranges = 700, False
    with pytest.raises(PullFailed):
        pull(published(server.url), tmp_path)
    server.cut_after = None
    assert pull(published(server.url), tmp_path).card.sha256 == sha(network_file)


def test_a_server_that_sends_another_range_is_begun_anew_with(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    server.cut_after, server.other_range = 700, True
    with pytest.raises(PullFailed, match="broke off"):
        pull(published(server.url), tmp_path)
    server.cut_after = None
    with pytest.raises(PullFailed, match="bytes from 700 on were asked for; run the command again"):
        pull(published(server.url), tmp_path)
    assert pull(published(server.url), tmp_path).card.sha256 == sha(network_file)


def test_an_address_that_leads_to_itself_is_not_tried_again(
    server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(PullFailed, match=r"from one address to the next without end$"):
        pull(published(server.url.replace("made.zip", "round")), tmp_path)


def test_a_download_that_was_complete_is_not_sent_again(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / "made-net.part").write_bytes(server.content)
    assert pull(published(server.url), tmp_path).card.sha256 == sha(network_file)


def _other_part(server: FileServer, _: bytes) -> None:
    server.content = archive({"readme.txt": b"no network"})


def _two_networks(server: FileServer, network: bytes) -> None:
    server.content = archive({"a/end2end.onnx": network, "b/end2end.onnx": network})


def _flipped_bit(server: FileServer, _: bytes) -> None:
    content = bytearray(server.content)
    content[300] ^= 255
    server.content = bytes(content)


def _not_a_network(server: FileServer, _: bytes) -> None:
    server.content = b"<html>Please log in</html>"


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_other_part, PullFailed, "holds 0 files end2end.onnx"),  # the archive of something else
        (_two_networks, PullFailed, "holds 2 files end2end.onnx"),  # which one is meant?
        (_flipped_bit, PullFailed, "damaged"),  # the archive's own check sums
        (_not_a_network, BadCard, "not a network"),  # a page instead of a file, no hash known
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_left(
    server: FileServer,
    network_file: bytes,
    tmp_path: Path,
    spoil: Callable[[FileServer, bytes], None],
    error: type[Exception],
    words: str,
) -> None:
    spoil(server, network_file)
    with pytest.raises(error, match=words):
        pull(published(server.url), tmp_path)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("listed", "demanded"),
    [("0" * 64, None), (None, "0" * 64)],  # by the list; by the one who pulls
)
def test_a_wrong_hash_is_refused_and_nothing_is_left(
    server: FileServer, tmp_path: Path, listed: str | None, demanded: str | None
) -> None:
    with pytest.raises(PullFailed, match="expected 0000"):
        pull(published(server.url, listed), tmp_path, sha256=demanded)
    assert left_in(tmp_path) == []


def test_a_hash_may_be_written_in_capitals_and_the_callers_goes_first(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    asked = published(server.url, "0" * 64)
    pull(asked, tmp_path, sha256=sha(network_file).upper())
    assert (tmp_path / "made-net" / "1" / "model.onnx").read_bytes() == network_file


@pytest.mark.parametrize("told", ["offers", "holds"])
def test_a_file_too_large_for_a_network_is_refused_and_nothing_is_left(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    if told == "holds":  # packed well
        server.content = archive({"end2end.onnx": bytes(500_000)})
    most = 400_000 if told == "holds" else len(server.content) - 1
    monkeypatch.setattr("posegate.pull.MAX_BYTES", most)
    with pytest.raises(PullFailed, match=f"{told} .*{most} bytes"):
        pull(published(server.url), tmp_path)
    assert left_in(tmp_path) == []


def test_only_a_file_of_that_very_name_is_taken(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    server.content = archive({"made/end2end.onnx": network_file, "made/old_end2end.onnx": b"x"})
    pull(published(server.url), tmp_path)
    assert (tmp_path / "made-net" / "1" / "model.onnx").read_bytes() == network_file


def test_paths_inside_an_archive_lead_nowhere(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    server.content = archive({"../../../end2end.onnx": network_file, "/etc/made": b"x"})
    repository = tmp_path / "repository"
    pull(published(server.url), repository)
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    assert [path.name for path in repository.iterdir()] == ["made-net"]


def test_a_network_that_its_card_does_not_describe_is_refused(
    server: FileServer, tmp_path: Path
) -> None:
    network = published(server.url)
    network.facts["output"] = {"names": ["other"]}
    with pytest.raises(BadCard, match="other"):
        pull(network, tmp_path)
    assert left_in(tmp_path) == []


def test_being_offline_is_said_with_the_way_around(server: FileServer, tmp_path: Path) -> None:
    server.server_close()
    with pytest.raises(PullFailed, match=r"127.0.0.1 cannot be reached .*HTTPS_PROXY") as caught:
        pull(published(server.url), tmp_path)
    assert caught.value.detail.endswith("run `posegate models pull made-net --file made.zip`")
    assert left_in(tmp_path) == []


def test_a_folder_without_a_card_is_told_before_anything_is_fetched(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "made-net" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(network_file)
    with pytest.raises(PullFailed, match=r"without a card .*move the folder away"):
        pull(published(server.url), tmp_path)
    assert server.seen == []
    assert left_in(tmp_path) == ["made-net", "made-net/1", "made-net/1/model.onnx"]


def test_an_empty_folder_is_filled(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "made-net").mkdir()
    assert pull(published(server.url), tmp_path).onnx_path.is_file()


def test_what_the_disk_does_not_take_is_removed_and_the_download_kept(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PullFailed, match=r"cannot write to .*: Permission denied"):
        pull(published(server.url), tmp_path)
    assert left_in(tmp_path) == [STAGING, f"{STAGING}/made-net.part"]


def test_a_file_fetched_elsewhere_needs_no_server(
    server: FileServer, network_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.server_close()
    network = published(server.url, sha(network_file))
    monkeypatch.setattr(cli_pull, "find_published", lambda name: network)
    (tmp_path / "made.zip").write_bytes(server.content)
    (tmp_path / "repository").mkdir()
    arguments = ["models", "pull", "made-net", "--file", str(tmp_path / "made.zip")]
    arguments += ["--model-repository", str(tmp_path / "repository")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "licence Apache-2.0" in result.stdout
    assert load_catalog(tmp_path / "repository").get("made-net", "pose").card.sha256 == sha(
        network_file
    )
    assert server.seen == []
    assert (tmp_path / "made.zip").read_bytes() == server.content


def test_a_file_that_is_another_is_refused_and_a_download_begun_goes_on(
    server: FileServer, network_file: bytes, tmp_path: Path
) -> None:
    network, repository = published(server.url, sha(network_file)), tmp_path / "repository"
    server.cut_after = 700
    with pytest.raises(PullFailed, match="broke off"):
        pull(network, repository)
    file = tmp_path / "other.zip"
    file.write_bytes(archive({"end2end.onnx": b"another"}))
    with pytest.raises(PullFailed, match="expected"):
        pull(network, repository, file=file)
    assert file.exists()
    assert left_in(repository) == [STAGING, f"{STAGING}/made-net.part"]


def test_an_address_that_is_gone_is_named(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(PullFailed, match=r"answered 404 .*/missing"):
        pull(published(server.url.replace("made.zip", "missing")), tmp_path)


def test_the_proxy_of_the_environment_is_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    pull(published("http://publisher.invalid/made.zip"), tmp_path)
    assert server.seen == [("http://publisher.invalid/made.zip", None)]


def test_a_proxy_that_makes_no_sense_is_named(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1")
    with pytest.raises(PullFailed, match="proxy of the environment"):
        pull(published(server.url), tmp_path)


@pytest.mark.parametrize("name", published_networks())
def test_every_published_network_makes_a_valid_card(name: str) -> None:
    network = find_published(name)
    card = network.card("0" * 64)
    assert card.name == name
    assert network.url.startswith("https://")
    assert "Apache-2.0" in card.licence


def test_a_name_that_is_not_known_and_one_that_cannot_be_served() -> None:
    with pytest.raises(UnknownModel, match="rtmpose-t, rtmpose-s"):
        find_published("nothing")


@pytest.mark.parametrize(
    ("name", "file", "network"),
    [
        ("hrnet-w32", "td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth", "hrnet-w32"),
        (  # mmpose's own name of it
            "td-hm_hrnet-w48_udp-8xb32-210e_coco-384x288",
            "td-hm_hrnet-w48_udp-8xb32-210e_coco-384x288-70d7ab01_20220913.pth",
            "hrnet-w48-384x288",
        ),
    ],
)
def test_a_network_published_as_checkpoint_names_the_command_that_makes_it_servable(
    name: str, file: str, network: str
) -> None:
    with pytest.raises(UnknownModel, match="PyTorch checkpoint only") as caught:
        find_published(name)
    command = f"`posenets export {file} --network {network} --repository model_repository`"
    assert command in caught.value.detail
    assert "fetch https://download.openmmlab.com/mmpose/v1/" in caught.value.detail
    assert f"/topdown_heatmap/coco/{file} and run" in caught.value.detail


def test_the_command_prints_licence_hash_and_place(
    server: FileServer, network_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_pull, "find_published", lambda name: published(server.url))
    tmp_path.joinpath("repository").mkdir()
    arguments = ["models", "pull", "made-net", "--model-repository", str(tmp_path / "repository")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "licence Apache-2.0" in result.stdout
    assert sha(network_file) in result.stdout
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["name"] == "made-net"


def test_a_file_that_was_not_taken_is_not_told_as_taken(
    server: FileServer, network_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_pull, "find_published", lambda name: published(server.url))
    arguments = ["models", "pull", "made-net", "--model-repository", str(tmp_path)]
    assert "made-net is in" in CliRunner().invoke(app, arguments).stdout
    other = tmp_path / "other.onnx"
    other.write_bytes(network_file + b"other")
    again = CliRunner().invoke(app, [*arguments, "--file", str(other)])
    assert "made-net was already in" in again.stdout


@pytest.mark.parametrize("text", ["", "00", "0" * 63 + "x"])
def test_a_hash_that_is_none_is_refused_before_anything_is_fetched(text: str) -> None:
    result = CliRunner().invoke(app, ["models", "pull", "rtmdet-nano", "--sha256", text])
    assert result.exit_code == 2
    assert "must be a SHA-256, 64 hex digits" in " ".join(result.output.split())


def test_the_command_lists_what_there_is_and_fails_in_one_sentence() -> None:
    rows = json.loads(CliRunner().invoke(app, ["models", "pull", "--json"]).stdout)
    assert {"rtmpose-m", "rtmdet-nano"} <= {row["name"] for row in rows}
    assert "rtmpose-m" in CliRunner().invoke(app, ["models", "pull"]).stdout
    result = CliRunner().invoke(app, ["models", "pull", "nothing"])
    assert (result.exit_code, "error: no published network" in result.stderr) == (2, True)
    assert (
        "Example: posegate models pull"
        in CliRunner().invoke(app, ["models", "pull", "--help"]).stdout
    )
