"""Runs the process that parses files: gives it one file after another and reads the records."""

from __future__ import annotations

import contextlib
import json  # orjson refuses a path that is not UTF-8
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

import sage.errors
from sage.errors import ConfigError
from sage.middleware.ingest.document import Unreadable
from sage.middleware.ingest.reading import Order

_COMMAND = [sys.executable, "-P", "-m", "sage.middleware.ingest.parser"]
_SECONDS_A_MEGABYTE = 1.0


def _environment() -> dict[str, str]:
    """The variables that the process needs, without credentials: it parses files from untrusted sources."""
    variables = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    root = str(Path(sage.errors.__file__).parents[1])
    return {**variables, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


@dataclass(frozen=True, slots=True)
class ParsingLimits:
    """Limits for parsing one file: bytes of memory, and seconds (plus one for each megabyte of the file)."""

    memory: int = 2**30
    seconds: float = 60.0


class Parser:
    """A context manager: the process runs from the first file to the end of the block. Use it from one thread."""

    def __init__(self, limits: ParsingLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def records(self, order: Order) -> Iterator[dict[str, Any]]:
        """The records of :func:`sage.middleware.ingest.reading.read`, for one file at a time. Leaving the iteration
        early ends the process; the next file starts another.

        Raises :class:`Unreadable` that says why the file cannot be read, :class:`sage.errors.ConfigError` where a
        package is missing.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        is_complete = False
        try:
            seconds = self._seconds(order)
            limits = {"memory": self._limits.memory, "cpu": seconds, "wall": seconds}
            try:
                process.stdin.write(json.dumps({**asdict(order), "limits": limits}).encode() + b"\n")
                process.stdin.flush()
            except OSError as exc:
                raise Unreadable(f"its parser process has ended: {exc}") from None
            error: str | None = None
            for line in process.stdout:
                record = orjson.loads(line)
                if "outcome" in record:
                    is_complete = True
                    self._check_outcome(record, error, seconds)
                    return
                error = record.get("unreadable", error)
                if "unreadable" not in record:
                    yield record
            raise Unreadable("the process that parsed it was killed from outside (out of memory?)")
        finally:
            if not is_complete:
                self.close()

    def kill(self) -> None:
        """Ends the process from another thread; whoever reads its records gets :class:`Unreadable`."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the process and its child."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(  # noqa: S603
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=_environment(),
            )
        return self._process

    def _seconds(self, order: Order) -> float:
        try:
            size = os.stat(order.path).st_size
        except OSError:
            size = 0
        return self._limits.seconds + _SECONDS_A_MEGABYTE * size / 2**20

    def _check_outcome(self, end: dict[str, Any], error: str | None, seconds: float) -> None:
        """Raises the error that the outcome of the child means, if there is one."""
        outcome = end["outcome"]
        if outcome == "done":
            return
        if outcome == "missing":
            raise ConfigError(end["message"])
        if error is not None:
            raise Unreadable(error)
        if outcome == "memory" or end.get("signal") in (signal.SIGABRT, signal.SIGKILL):
            most = self._limits.memory // 2**20
            raise Unreadable(f"needs more than {most} MiB of memory to be parsed (--max-memory)")
        if end.get("signal") in (signal.SIGALRM, signal.SIGXCPU):
            raise Unreadable(f"takes more than {seconds:.0f} s to be parsed (--timeout)")
        if "signal" in end:
            raise Unreadable(f"its parser was ended by {signal.Signals(end['signal']).name}")
        raise Unreadable("its parser failed")
