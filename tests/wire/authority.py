"""Certificates made on the spot, for the tests of TLS."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """A certificate authority and files that it signed, all in one folder."""

    folder: Path
    ca: trustme.CA

    @property
    def file(self) -> Path:
        """The authority's own certificate."""
        return self._written("ca.pem", self.ca.cert_pem)

    def pair(self, name: str) -> tuple[Path, Path]:
        """Files of a certificate for that name or address, and of its key."""
        leaf = self.ca.issue_cert(name)
        certificate = leaf.cert_chain_pems[0]
        return self._written(f"{name}.pem", certificate), self._written(
            f"{name}.key", leaf.private_key_pem
        )

    def _written(self, name: str, content: trustme.Blob) -> Path:
        path = self.folder / name
        content.write_to_path(str(path))
        return path


def make_authority(folder: Path) -> Authority:
    """A new authority, which nobody knows yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return Authority(folder, trustme.CA())
