"""A real PostgreSQL for tests: a cluster of their own in a private directory, on a Unix socket, gone with the session.

It belongs to an unprivileged user, since PostgreSQL does not run as root, and never touches the cluster that Debian's
package makes. Nothing of it is durable.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from sage.middleware.engines.supervisor import end_with_parent
from sage.middleware.settings.database import DatabaseUrl

_PACKAGES = Path("/usr/lib/postgresql")
_SETTINGS = (
    *("fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off"),
    *("wal_level=minimal", "max_wal_senders=0", "shared_buffers=16MB", "max_connections=100", "listen_addresses="),
)
_START_SECONDS = 60


def postgresql_programs() -> Path:
    """Where ``initdb`` is. Without it the test fails in CI, and elsewhere is skipped."""
    found = sorted(_PACKAGES.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    program = str(found[-1]) if found else shutil.which("initdb")
    if program is None:
        reason = "this test needs PostgreSQL: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return Path(program).resolve().parent


class PostgresqlServer:
    """A running cluster. ``process`` may be stopped and gone on with, or killed."""

    def __init__(self, directory: Path, user: str | None, programs: Path) -> None:
        self._directory = directory
        self._user = user
        self._programs = programs
        self._numbers = count()
        self._run(
            "initdb", "-D", str(self._data), "-U", "sage", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"
        )
        self.start()

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def url(self, name: str) -> DatabaseUrl:
        return DatabaseUrl(f"postgresql://sage@/{name}?host={self._directory}")

    def start(self) -> None:
        """Also after a kill."""
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self._directory), *settings]
        with open(self._directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=end_with_parent, **self._as_user()
            )
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres").conninfo).close()
                return
            except psycopg.OperationalError:
                log_text = (self._directory / "log").read_text()
                assert self.process.poll() is None, log_text
                assert time.monotonic() < end, log_text
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """At once, without a checkpoint: what was written lately may be lost; with ``SIGINT`` nothing is."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(30)

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[DatabaseUrl]:
        """A new database like ``template``, which nobody is connected to."""
        name = f"sage_{next(self._numbers)}"
        self._do(sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy"), name, template)
        try:
            yield self.url(name)
        finally:
            self._do(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)

    def _do(self, statement: sql.SQL, *names: str) -> None:
        with closing(psycopg.connect(self.url("postgres").conninfo, autocommit=True)) as connection:
            connection.execute(statement.format(*map(sql.Identifier, names)))

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, **self._as_user())
        assert done.returncode == 0, done.stderr

    def _as_user(self) -> dict[str, Any]:
        return {"cwd": "/"} if self._user is None else {"cwd": "/", "user": self._user, "extra_groups": []}


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A cluster in a directory below the system's temporary one: its socket needs a short path."""
    programs = postgresql_programs()
    user = None if os.geteuid() else _unprivileged_user()
    directory = Path(tempfile.mkdtemp(prefix="sage-pg-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
    try:
        if user is not None:
            os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
        server = PostgresqlServer(directory, user, programs)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


_MEMORY = "/dev/shm"


def _unprivileged_user() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
