"""API keys, for both faces: only their hashes are kept, and comparing takes constant time."""

import hashlib
import hmac
from collections.abc import Mapping

from posegate.errors import Unauthenticated
from posegate.settings import Settings

BEARER = "bearer "


class ApiKeys:
    """The keys that may call; with none set, everybody may."""

    def __init__(self, settings: Settings) -> None:
        self._hashes = [secret.get_secret_value().lower() for secret in settings.api_key_sha256]

    def check(self, headers: Mapping[str, str]) -> None:
        """Unauthenticated unless the headers hold a known key.

        Their names are in lower case, their values the bytes of the wire, one character each.
        """
        if not self._hashes:
            return
        key = _key(headers)
        given = hashlib.sha256(key.encode("latin-1", "replace")).hexdigest()
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        if not any(matches):
            why = "this service knows no such API key" if key else "this service needs an API key"
            raise Unauthenticated(
                f"{why}; send one of its keys as `Authorization: Bearer KEY` or as `X-API-Key: KEY`"
            )


def _key(headers: Mapping[str, str]) -> str:
    authorization = headers.get("authorization", "")
    if authorization.lower().startswith(BEARER):
        return authorization[len(BEARER) :].strip()
    return headers.get("x-api-key", "")
