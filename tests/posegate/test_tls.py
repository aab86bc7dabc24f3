"""TLS files -> what is wrong with them: posegate.tls."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from posegate.errors import BadOption
from posegate.settings import Settings, load_settings
from posegate.tls import load_tls
from wire.authority import Authority, make_authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path)


def settings(certificate: Path, key: Path, client_ca: Path | None = None) -> Settings:
    return Settings(tls_certificate=certificate, tls_key=key, tls_client_ca=client_ca)


def test_without_files_nothing_is_encrypted() -> None:
    assert load_tls(Settings()) is None


def test_files_that_belong_together_are_taken(authority: Authority) -> None:
    tls = load_tls(settings(*authority.pair("here.test"), authority.file))
    assert tls is not None
    assert tls.client_ca == authority.file


def test_the_key_of_another_certificate_is_named(authority: Authority) -> None:
    certificate, _ = authority.pair("here.test")
    _, key = authority.pair("there.test")
    with pytest.raises(BadOption, match=r"setting tls_key: .*there\.test\.key is not the key of"):
        load_tls(settings(certificate, key))


@pytest.mark.parametrize("wrong", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_a_file_of_something_else_is_named(
    authority: Authority, tmp_path: Path, wrong: str
) -> None:
    words = tmp_path / "words.pem"
    words.write_text("these are words")
    certificate, key = authority.pair("here.test")
    files = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": authority.file}
    with pytest.raises(BadOption, match=rf"setting {wrong}: .*words\.pem"):
        load_tls(Settings(**{**files, wrong: words}))


def test_an_encrypted_key_is_refused_without_asking(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.pair("here.test")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(BadOption, match="without a passphrase"):
        load_tls(settings(certificate, key))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_certificate": "a.pem"}, "together"),
        ({"tls_key": "a.key"}, "together"),
        ({"tls_client_ca": "a.pem"}, "needs tls_certificate"),
    ],
)
def test_half_of_the_settings_is_refused(given: dict[str, str], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        load_settings(**given)
