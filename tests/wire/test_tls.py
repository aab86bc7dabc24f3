"""TLS and mutual TLS on both faces, over real sockets, with authorities made here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fakes import POSE_NAME
from posegate.cli import app
from posegate.client import Client, Tls
from posegate.errors import BackendDown, BadOption
from wire.authority import Authority, make_authority
from wire.running import Service, launch, running_service


@dataclass(frozen=True)
class Encrypted:
    """A service with TLS, the authority it shows, and that of the callers it lets in, if any."""

    service: Service
    authority: Authority
    callers: Authority | None

    def url(self, scheme: str) -> str:
        address = f"{self.service.host}:{self.service.port}"
        return f"{scheme}://{address if scheme == 'https' else self.service.grpc_address}"

    def known_caller(self) -> Tls:
        """What a caller needs to get an answer."""
        pair = self.callers.pair("camera.test") if self.callers else (None, None)
        return Tls(str(self.authority.file), *pair)  # as most would give it


@pytest.fixture(scope="module", params=["one-sided", "mutual"])
def encrypted(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("tls")
    authority = make_authority(folder / "service")
    callers = make_authority(folder / "callers") if request.param == "mutual" else None
    certificate, key = authority.pair("127.0.0.1")
    settings = {"tls_certificate": certificate, "tls_key": key}
    if callers is not None:
        settings["tls_client_ca"] = callers.file
    with running_service(repository, folder / "log", **settings) as running:
        yield Encrypted(running, authority, callers)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_pictures_and_streams_go_over_tls(encrypted: Encrypted, scheme: str, photo: bytes):
    with Client(encrypted.url(scheme), timeout_s=60, tls=encrypted.known_caller()) as client:
        assert client.estimate(photo)["model"] == POSE_NAME
        *results, summary = client.stream([photo] * 2, mode="every")
        assert [event["event"] for event in results] == ["result"] * 2
        assert summary["results"] == 2


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_service_of_another_authority_is_not_trusted(
    encrypted: Encrypted, scheme: str, photo: bytes, tmp_path: Path
):
    known = encrypted.known_caller()
    stranger = Tls(make_authority(tmp_path).file, known.certificate, known.key)
    with Client(encrypted.url(scheme), timeout_s=20, retries=0, tls=stranger) as client:
        with pytest.raises(BackendDown):
            client.estimate(photo)
        with pytest.raises(BackendDown):
            list(client.stream([photo]))


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
@pytest.mark.parametrize("encrypted", ["mutual"], indirect=True)
@pytest.mark.parametrize("shown", ["none", "of another authority"])
def test_mutual_tls_lets_nobody_in_without_a_known_certificate(
    encrypted: Encrypted, scheme: str, shown: str, photo: bytes, tmp_path: Path
):
    pair = (None, None) if shown == "none" else make_authority(tmp_path).pair("camera.test")
    tls = Tls(encrypted.authority.file, *pair)
    with Client(encrypted.url(scheme), timeout_s=20, retries=0, tls=tls) as client:
        told = "certificate" if scheme == "https" else None
        with pytest.raises(BackendDown, match=told):
            client.estimate(photo)
        with pytest.raises(BackendDown, match=told):
            list(client.stream([photo]))


def test_an_untrusted_certificate_is_not_tried_again(encrypted: Encrypted, tmp_path: Path):
    tls = Tls(make_authority(tmp_path).file)
    url = encrypted.url("https")
    with Client(url, timeout_s=20, tls=tls) as client, pytest.raises(BackendDown) as caught:
        client.models()
    assert caught.value.retry_after_s is None
    assert "certificate" in caught.value.detail.lower()


@pytest.mark.parametrize("face", ["http", "grpc"])
def test_plain_text_gets_no_answer(encrypted: Encrypted, face: str):
    url = encrypted.url(f"{face}s").replace("s://", "://", 1)
    with Client(url, retries=0) as client, pytest.raises(BackendDown):
        client.models()


def test_the_commands_take_the_files(encrypted: Encrypted, photo: bytes, tmp_path: Path):
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(photo)
    tls = encrypted.known_caller()
    files = ["--ca", tls.ca, "--certificate", tls.certificate, "--key", tls.key]
    if tls.certificate is None:
        files = files[:2]
    arguments = ["predict", picture, "--url", encrypted.url("https"), *files]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert POSE_NAME in done.stdout


def test_files_for_a_plain_url_are_refused(tmp_path: Path):
    with pytest.raises(BadOption, match="https:// or grpcs://"):
        Client("http://127.0.0.1:8080", tls=Tls(make_authority(tmp_path).file))
    with pytest.raises(BadOption, match="together"):
        Tls(certificate=tmp_path / "me.pem")


@pytest.mark.parametrize("wrong", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_a_missing_file_stops_the_start_and_is_named(repository: Path, tmp_path: Path, wrong: str):
    authority = make_authority(tmp_path)
    certificate, key = authority.pair("127.0.0.1")
    settings = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": authority.file}
    settings[wrong].unlink()
    process = launch(repository, tmp_path / "log", **settings)
    assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert f"cannot start: setting {wrong}: {settings[wrong]} cannot be read" in log
    assert "Traceback" not in log
