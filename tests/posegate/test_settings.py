"""flags, environment, file -> settings: posegate.settings."""

from pathlib import Path

import pytest

from posegate.errors import BadOption
from posegate.settings import find_model_repository, load_settings


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
        ("htp_port = 1", "htp_port: Extra inputs"),
        ("request_timeout_s = nan", "request_timeout_s"),
        ("threads = 0", "threads"),
        ("max_queue = 3", "max_queue must be at least"),
        ("grpc_port = 8080", "http_port and grpc_port are both 8080; give each face its own"),
        ("log_level = 'loud'", "log_level"),
        ("http_port", "is not TOML"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        load_settings(write(tmp_path, text))


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
