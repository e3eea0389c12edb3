"""The databases that tests run on: SQLite in a file, and with the mark ``both_databases`` a real PostgreSQL too.

``SAGE_TEST_DATABASE=postgresql`` (or ``sqlite``) has all tests that take ``database_url`` run on that one alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgresqlServer, postgresql_server

from sage.middleware.settings.database import DatabaseUrl

_KINDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))
"""`make test` has no time to start a server."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_databases: tests that take database_url run on SQLite and on PostgreSQL")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_databases"):
        wanted = os.environ.get("SAGE_TEST_DATABASE")
        metafunc.parametrize("database_url", [wanted] if wanted else _KINDS, indirect=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A cluster for all tests of this process."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def _template(postgresql: PostgresqlServer) -> Iterator[str]:
    """The name of a database with the tables of the accounts and the jobs, to be copied: to make them takes longer."""
    from sage.middleware.auth.database import SCHEMA as ACCOUNTS
    from sage.middleware.database.database import Database
    from sage.middleware.queue.database import SCHEMA as JOBS

    with postgresql.database() as url:
        for schema in (ACCOUNTS, JOBS):
            Database(Path("-"), schema, url=url).close()
        yield url.conninfo.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[DatabaseUrl | None]:
    """A fresh PostgreSQL database; ``None`` means SQLite."""
    if getattr(request, "param", os.environ.get("SAGE_TEST_DATABASE", "sqlite")) == "sqlite":
        yield None
        return
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    with server.database(request.getfixturevalue("_template")) as url:
        yield url
