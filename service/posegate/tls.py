"""Certificate files in the settings -> what each face needs to encrypt."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from posegate.errors import BadOption
from posegate.settings import Settings


@dataclass(frozen=True, slots=True)
class Tls:
    """Files that were found to belong together; with a client CA callers must show a certificate.

    The handshake asks every caller for it, whatever the route: probes and scrapers need one too.
    """

    certificate: Path
    key: Path
    client_ca: Path | None

    def http_options(self) -> dict[str, Any]:
        """Keyword arguments of uvicorn's configuration."""
        return {
            "ssl_certfile": str(self.certificate),
            "ssl_keyfile": str(self.key),
            "ssl_ca_certs": str(self.client_ca) if self.client_ca else None,
            "ssl_cert_reqs": ssl.CERT_REQUIRED if self.client_ca else ssl.CERT_NONE,
        }

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a gRPC port."""
        return grpc.ssl_server_credentials(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=self.client_ca.read_bytes() if self.client_ca else None,
            require_client_auth=self.client_ca is not None,
        )


def load_tls(settings: Settings) -> Tls | None:
    """The files of the settings, None without any; BadOption names the setting that is wrong."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    for name in ("tls_certificate", "tls_key", "tls_client_ca"):
        _check_readable(name, getattr(settings, name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_refuse)
    except ssl.SSLError as error:
        raise BadOption(_what_is_wrong(settings, error)) from error
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except ssl.SSLError as error:
            raise BadOption(
                f"setting tls_client_ca: {settings.tls_client_ca} holds no certificate in PEM form"
            ) from error
    return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _check_readable(name: str, path: Path | None) -> None:
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        raise BadOption(f"setting {name}: {path} cannot be read: {error.strerror}") from error


def _refuse() -> str:
    raise BadOption("setting tls_key: the key is encrypted; give one without a passphrase")


def _what_is_wrong(settings: Settings, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"setting tls_key: {settings.tls_key} is not the key of the certificate "
            f"{settings.tls_certificate}"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(settings.tls_certificate)
    except ssl.SSLError:
        return f"setting tls_certificate: {settings.tls_certificate} holds no certificate in PEM"
    return f"setting tls_key: {settings.tls_key} holds no private key in PEM form"
