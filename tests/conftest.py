"""Fixtures that every test may use; none of them needs trained weights."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from fakes import make_repository
from posegate.build import running_pipeline
from posegate.pipeline import Pipeline
from posegate.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person at the keyboard has set must not change what tests see."""
    import os

    for name in list(os.environ):
        if name.startswith("POSEGATE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> None:
    """Tests that a shell runs in the background ignore Ctrl-C, and so does what they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with the made pose network and the made detector."""
    return make_repository(tmp_path_factory.mktemp("made"))


@pytest.fixture
def settings(repository: Path) -> Settings:
    return Settings(model_repository=repository, threads=2, max_batch=4)


@pytest_asyncio.fixture
async def pipeline(settings: Settings) -> AsyncIterator[Pipeline]:
    """A started pipeline over the made repository."""
    async with running_pipeline(settings) as started:
        yield started
