"""One service for all wire tests, and one with small limits."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fakes import encode, make_photo, make_repository
from wire.running import Service, running_service


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="session")
def service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("service") / "log"
    with running_service(repository, log) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, service: Service) -> str:
    """Address of each face of the service, for a client."""
    return service.urls[request.param]


@pytest.fixture(scope="session")
def tight_service(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One request at a time, a body of 100 kB, four seconds."""
    log = tmp_path_factory.mktemp("tight") / "log"
    limits = {"max_images": 1, "max_body_bytes": 100_000, "request_timeout_s": 4.0}
    with running_service(repository, log, **limits) as running:
        yield running


@pytest.fixture(scope="session")
def impatient_service(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A head must come within a second."""
    log = tmp_path_factory.mktemp("impatient") / "log"
    with running_service(repository, log, keep_alive_s=1) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG in which the made detector sees two people."""
    return encode(make_photo(), ".jpg")
