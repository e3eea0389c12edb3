from __future__ import annotations

from collections.abc import Iterator

import pytest
from valkey_server import Valkey, valkey


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with valkey() as running:
        yield running


@pytest.fixture
def redis(server: Valkey) -> Valkey:
    """The server, empty."""
    server.client.flushall()
    return server
