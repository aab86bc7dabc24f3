"""flags, environment, file -> settings: posegate.settings."""

import re
from pathlib import Path

import pytest

from posegate.errors import BadOption
from posegate.settings import (
    OTHER_VARIABLES,
    PREFIX,
    Settings,
    find_model_repository,
    load_settings,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "posegate.toml"
    path.write_text(text)
    return path


def test_flags_go_before_environment_before_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, "http_port = 1\nmax_batch = 1\nmax_people = 7")
    monkeypatch.setenv("POSEGATE_HTTP_PORT", "2")
    monkeypatch.setenv("POSEGATE_MAX_BATCH", "2")
    settings = load_settings(config, http_port=3, max_batch=None)
    assert (settings.http_port, settings.max_batch, settings.max_people) == (3, 2, 7)


def test_the_file_may_be_named_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSEGATE_CONFIG", str(write(tmp_path, "threads = 3")))
    assert load_settings().threads == 3


def test_defaults_are_those_of_the_contract() -> None:
    settings = load_settings()
    assert (settings.host, settings.http_port) == ("127.0.0.1", 8080)
    assert settings.max_body_bytes == 20 * 1024 * 1024
    assert settings.max_pixels == 50_000_000
    assert settings.max_in_flight == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http_port = 70000", "http_port"),
        ("htp_port = 1", "setting htp_port: there is no such field"),
        ("HTTP_PORT = 1", r"^setting HTTP_PORT: there is no such field; did you mean http_port\?"),
        ("request_timeout_s = nan", "request_timeout_s"),
        ("threads = 0", "threads"),
        ("max_body_bytes = 1_100_000_000", "max_body_bytes"),
        ("max_queue = 3", "^settings: max_queue is 3; it must be at least twice max_people, 200"),
        ("grpc_port = 8080", "^settings: http_port and grpc_port are both 8080; give each face"),
        ("log_level = 'loud'", "log_level"),
        ("host = ''", "^setting host: "),
        ("http_port", "is not TOML"),
        ("http_port = true", "^setting http_port: true and false are no value"),
        ("request_timeout_s = true", "^setting request_timeout_s: true and false"),
        ("triton_urls = ['host:99999']", "^setting triton_urls: needs host:port"),
        ("triton_urls = ['host:0']", "^setting triton_urls: needs host:port"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        load_settings(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("POSEGATE_API_KEYS_SHA256", "did you mean POSEGATE_API_KEY_SHA256?"),
        ("POSEGATE_MAXPEOPLE", "did you mean POSEGATE_MAX_PEOPLE?"),
        ("POSEGATE_PORT", "did you mean POSEGATE_"),
        ("posegate_zzz", r"POSEGATE_ZZZ is no setting \(`posegate serve"),
    ],
)
def test_a_misspelt_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(BadOption, match=words):
        load_settings()


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize(
    "name", ["HOST", "MODEL", "TLS_KEY", "MODEL_REPOSITORY", "TRITON_URLS", "CONFIG"]
)
def test_a_variable_left_empty_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"POSEGATE_{name}", value)
    with pytest.raises(BadOption, match=f"^the environment variable POSEGATE_{name} is empty; "):
        load_settings()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'model_repository = "~/networks"\nlog_level = "INFO"')
    monkeypatch.setenv("HOME", str(tmp_path))
    (name,) = (path.name for path in tmp_path.iterdir())
    monkeypatch.setenv("POSEGATE_CONFIG", f"~/{name}")
    settings = load_settings()
    assert settings.model_repository == tmp_path / "networks"
    assert settings.log_level == "info"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSEGATE_API_KEY", "word"),
        ("POSEGATE_PORT", "tcp://10.0.0.1:8080"),
        ("POSEGATE_SERVICE_HOST", "10.0.0.1"),
        ("POSEGATE_SERVICE_PORT_HTTP", "8080"),
        ("POSEGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("POSEGATE_METRICS_SERVICE_PORT", "9090"),
    ],
)
def test_what_others_put_into_the_environment_is_let_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    default = load_settings()
    monkeypatch.setenv(name, value)
    assert load_settings() == default


def test_both_ports_may_be_left_to_the_system() -> None:
    settings = load_settings(http_port=0, grpc_port=0)
    assert (settings.http_port, settings.grpc_port) == (0, 0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="cannot be read: No such file"):
        load_settings(tmp_path / "missing.toml")


def test_model_repository_of_the_working_folder_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_repository").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model_repository() == tmp_path / "model_repository"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://user:secret@collector:4318/x", "https://***@collector:4318/x"),
        ("https://user:sec@secret@collector/x", "https://***@collector/x"),
        ("https://collector/x?api-key=secret", "https://collector/x?***"),
        ("https://collector/user@x", "https://collector/user@x"),
    ],
)
def test_the_password_of_a_collector_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, given: str, shown: str
) -> None:
    monkeypatch.setenv("POSEGATE_OTLP_ENDPOINT", given)
    settings = load_settings()
    assert settings.otlp_endpoint == given
    assert f'"{shown}"' in settings.model_dump_json()


def test_every_variable_that_a_document_names_is_a_setting() -> None:
    root = Path(__file__).parents[2]
    known = {PREFIX + field.upper() for field in Settings.model_fields} | OTHER_VARIABLES
    folders = [root / name for name in ("docs", "docker", "k8s")]
    for document in [root / "README.md", *(d for f in folders for d in f.rglob("*.md"))]:
        named = set(re.findall(PREFIX + r"[A-Z][A-Z0-9_]*[A-Z0-9]", document.read_text()))
        assert named <= known, document
