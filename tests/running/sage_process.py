"""The real `sage` command in processes of its own: what a user starts and types."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import loaded_sage
from loaded_process import LoadedProcess, Process, loaded
from project import ROOT

SAGE = [sys.executable, "-m", "sage.middleware.cli.main"]
_VENDOR = ("OPENAI_", "OLLAMA_", "ZHIPUAI_", "ZAI_", "CO_API", "COHERE_", "VLLM_", "SAGE_")

Sage = Callable[..., subprocess.CompletedProcess[str]]
"""``run("models", "list")``: runs one command to its end."""


def environment(data_dir: Path, **extra: str) -> dict[str, str]:
    """This process's environment without any vendor's or our own settings, or a terminal's width, on ``data_dir``."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith((*_VENDOR, "COLUMNS"))}
    return {**variables, "SAGE_DATA_DIR": str(data_dir), "SAGE_LANG": "en", "PYTHONPATH": str(ROOT), **extra}


def with_command(directory: Path) -> dict[str, str]:
    """:func:`environment` on ``data`` in ``directory``, where shell scripts find the command ``sage``."""
    shim = directory / "sage"
    env = environment(directory / "data")
    address = loaded(env)
    command = SAGE if address is None else [sys.executable, "-IS", loaded_sage.__file__, address]
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    shim.chmod(0o755)
    return {**env, "PATH": f"{directory}:{env['PATH']}"}


def sage(
    arguments: Sequence[str], env: Mapping[str, str], *, cwd: Path, stdin: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Runs ``sage ARGUMENTS…`` to its end."""
    address = loaded(env)
    if address is None:
        return subprocess.run(
            [*SAGE, *arguments], env=dict(env), cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout
        )
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(stdin)
        given.seek(0)
        files = [file.fileno() for file in (given, out, err)]
        with loaded_sage.ask(address, list(arguments), dict(env), str(cwd), files) as connection:
            pid = loaded_sage.told(connection)
            connection.settimeout(timeout)
            try:
                status = loaded_sage.told(connection)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([*SAGE, *arguments], status, out.read(), err.read())


def without(modules: Sequence[str], program: Path | None = None) -> list[str]:
    """A command for ``sage``, or for a ``program``, in which those modules cannot be imported, as if they were not
    installed."""
    run = (
        "from sage.middleware.cli.main import main; sys.argv[0] = 'sage'; main()"
        if program is None
        else f"import runpy; sys.argv[0] = {str(program)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-c", f"import sys; sys.modules.update(dict.fromkeys({list(modules)!r})); {run}"]


class Serving:
    """A `sage serve` that has said that it listens."""

    def __init__(self, process: Process, welcome: list[str], log: Path) -> None:
        self.process = process
        self.welcome = welcome
        self.log = log
        self.url = welcome[0].split()[3]


@contextmanager
def serving(
    arguments: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    timeout: float = 30,
    *,
    files: int | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[Serving]:
    """``sage serve ARGUMENTS…`` from its first line to SIGTERM, after which it must be gone with status 0.

    It is a fork of the loaded program where that makes no difference, unless ``command`` says how to start ``sage``.
    ``files`` is how many it may have open at most.
    """
    limited = [] if files is None else ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    log = cwd / "serve.log"
    address = loaded(env) if command is None and files is None else None
    process: Process
    with log.open("w") as errors:
        if address is not None:
            process = LoadedProcess(address, ["serve", *arguments], env, cwd, stderr=errors)
        else:
            process = subprocess.Popen(
                [*limited, *(command or SAGE), "serve", *arguments],
                env=dict(env),
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield Serving(process, _welcome(process, log, timeout), log)
        finally:
            _end(process, log)


def _end(process: Process, log: Path) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    assert status == 0, f"status {status}: {log.read_text()}"


def _welcome(process: Process, log: Path, timeout: float) -> list[str]:
    """The lines that it says once it listens, all written at once."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    while not select.select([process.stdout], [], [], 0.2)[0]:
        assert time.monotonic() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
    text = os.read(process.stdout.fileno(), 65536).decode()
    assert text.startswith("SAGE listens on http://"), text + log.read_text()
    return text.splitlines()


def children(pid: int) -> set[int]:
    """Every descendant of ``pid`` that lives."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    children: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            children.add(child)
            waiting.append(child)
    return children


def wait_gone(pids: set[int], timeout: float = 30) -> None:
    """Waits until none of ``pids`` lives."""
    deadline = time.monotonic() + timeout
    while alive := {pid for pid in pids if _alive(pid)}:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] != "Z"
    except OSError:
        return False
