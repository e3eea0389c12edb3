"""Processes that are forks of a Python that has loaded the program (``loaded_sage.py``), as :mod:`subprocess` has them.

Loading is most of what ``sage serve`` takes until it listens, and nearly all of what a short program takes.
"""

from __future__ import annotations

import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

import loaded_sage

_started: list[tuple[subprocess.Popen[bytes], str]] = []
"""The process that forks, with the directory of its socket."""


@functools.cache
def _server() -> str:
    """The address where forks can be asked for until :func:`close_server`."""
    directory = tempfile.mkdtemp(prefix="sage-loaded-")
    address = f"{directory}/socket"
    process = subprocess.Popen(
        [sys.executable, loaded_sage.__file__, "--serve", address],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    _started.append((process, directory))
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    return address


def close_server() -> None:
    """Ends what forks, if it was started; the next fork starts it anew."""
    _server.cache_clear()
    while _started:
        process, directory = _started.pop()
        assert process.stdin is not None
        process.stdin.close()
        process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Of the Python that forks: nothing of ours, and our modules on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAGE_")}
    return {**kept, "SAGE_LANG": "en", "PYTHONPATH": str(loaded_sage.ROOT)}


def loaded(env: Mapping[str, str]) -> str | None:
    """Where a fork with that environment can be asked for. ``None`` means that it has to be started as a user starts
    it: with full counts, and where the environment changes how Python starts."""
    if os.environ.get("SAGE_TEST_FULL"):
        return None
    if loaded_sage.shapes_python(dict(env)) != loaded_sage.shapes_python(_environment()):
        return None
    return _server()


def loaded_python(env: Mapping[str, str]) -> list[str]:
    """A command that runs a program, or ``-c`` and its code, in a Python that has loaded ours where that makes no
    difference."""
    address = loaded(env)
    if address is None:
        return [sys.executable]
    return [sys.executable, "-IS", loaded_sage.__file__, "--program", address]


class LoadedProcess:
    """A fork that runs ``sage ARGUMENTS…``, or with ``script`` a program of that path, with pipes for what it says, but
    for ``stderr`` if that is a file, and nothing to read. It has what tests use of a
    :class:`subprocess.Popen`."""

    def __init__(
        self,
        address: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        *,
        script: str | None = None,
        stderr: IO[str] | None = None,
    ) -> None:
        self.args = list(arguments) if script is None else [script, *arguments]
        stdout, its_stdout = os.pipe()
        errors, its_stderr = os.pipe() if stderr is None else (None, os.dup(stderr.fileno()))
        files = [os.open(os.devnull, os.O_RDONLY), its_stdout, its_stderr]
        self._connection = loaded_sage.ask(address, list(arguments), dict(env), str(cwd), files, script)
        for file in files:
            os.close(file)
        self.pid = loaded_sage.told(self._connection)
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] = os.fdopen(stdout)
        self.stderr: IO[str] | None = None if errors is None else os.fdopen(errors)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = loaded_sage.told(self._connection)
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it says until it ends, on its two outputs; it is killed when that takes too long."""
        files = [file for file in (self.stdout, self.stderr) if file is not None and not file.closed]
        with ThreadPoolExecutor(2) as pool:
            reading = {file: pool.submit(file.read) for file in files}
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        said = {file: text.result() for file, text in reading.items()}
        for file in files:
            file.close()
        return said.get(self.stdout, ""), "" if self.stderr is None else said.get(self.stderr, "")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[str] | LoadedProcess
