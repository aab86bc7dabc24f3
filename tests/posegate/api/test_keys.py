"""API keys: posegate.api.keys, and how settings hold them."""

import hashlib

import pytest

from posegate.api.keys import ApiKeys
from posegate.errors import BadOption, Unauthenticated
from posegate.settings import Settings, load_settings

FIRST, SECOND = (hashlib.sha256(key).hexdigest() for key in (b"first", b"second"))


def test_without_keys_everybody_may_call() -> None:
    ApiKeys(Settings()).check({})


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer first"},
        {"authorization": "bearer second"},
        {"x-api-key": "first"},
    ],
)
def test_each_key_opens_either_way(headers: dict[str, str]) -> None:
    ApiKeys(Settings(api_key_sha256=(FIRST, SECOND.upper()))).check(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer third"},
        {"authorization": "Basic first"},
        {"x-api-key": ""},
        {"x-api-key": FIRST},  # the hash is not the key
    ],
)
def test_anything_else_does_not(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        ApiKeys(Settings(api_key_sha256=(FIRST,))).check(headers)


def test_a_wrong_key_is_told_from_a_missing_one() -> None:
    keys = ApiKeys(Settings(api_key_sha256=(FIRST,)))
    with pytest.raises(Unauthenticated, match="knows no such API key"):
        keys.check({"x-api-key": "third"})
    with pytest.raises(Unauthenticated, match="needs an API key"):
        keys.check({})


def test_a_key_of_other_letters_is_taken_by_its_bytes() -> None:
    """What `printf sécret | sha256sum` hashed, as the bytes come over HTTP."""
    wire = "sécret".encode()
    keys = ApiKeys(Settings(api_key_sha256=(hashlib.sha256(wire).hexdigest(),)))
    keys.check({"x-api-key": wire.decode("latin-1")})


def test_hashes_come_from_the_environment_and_are_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POSEGATE_API_KEY_SHA256", f"{FIRST},{SECOND}")
    settings = load_settings()
    assert len(settings.api_key_sha256) == 2
    assert FIRST not in settings.model_dump_json() + repr(settings)


def test_a_key_in_the_place_of_its_hash_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSEGATE_API_KEY_SHA256", "first")
    with pytest.raises(BadOption, match="sha256sum"):
        load_settings()


@pytest.mark.parametrize("value", ["", "-", " , ", "  -\n"])
def test_a_variable_that_holds_no_key_does_not_open_the_service(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("POSEGATE_API_KEY_SHA256", value)
    with pytest.raises(BadOption, match="holds no key"):
        load_settings()
