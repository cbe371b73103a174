"""What the tests of storages share: a PostgreSQL, and storages that are closed after the test."""

from collections.abc import Callable, Iterator

import pytest
from optuna.storages import BaseStorage

from storage.studies import retrying
from storage.studies.databases import close_storage, open_storage
from tests.support.postgres import PostgreSQL, postgresql


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture
def said() -> list[str]:
    """What storages have said."""
    return []


@pytest.fixture
def open_url(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], BaseStorage]]:
    """Open storages, which wait for a short time between two attempts."""
    monkeypatch.setattr(retrying, "PAUSE", 0.05)
    opened: list[BaseStorage] = []

    def open_url(url: str) -> BaseStorage:
        opened.append(open_storage(url, said.append))
        return opened[-1]

    yield open_url
    for storage in opened:
        close_storage(storage)
