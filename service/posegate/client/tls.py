"""How the client checks the service's certificate, and the certificate it shows itself."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from posegate.errors import BadOption


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files; all are optional, `certificate` and `key` (mutual TLS) come together.

    Without `ca` the service's certificate must come from an authority that the system (HTTPS) or
    gRPC itself trusts.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise BadOption("a client certificate and its key must be given together")

    def context(self) -> ssl.SSLContext:
        """For https:// and wss://."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise BadOption(f"the TLS files cannot be used: {error}; {self}") from error
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For grpcs://; the files are checked as for https://."""
        self.context()
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
