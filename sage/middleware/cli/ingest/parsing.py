"""This side of the process that parses files: hands it one file after another, and says what became of each."""

from __future__ import annotations

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
from sage.middleware.cli.ingest.document import Unreadable
from sage.middleware.cli.ingest.reading import Order

_COMMAND = [sys.executable, "-P", "-m", "sage.middleware.cli.ingest.parser"]
_SECONDS_A_MEGABYTE = 1.0


def _environment() -> dict[str, str]:
    """What it needs, and no credential: it reads what others wrote."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    home = str(Path(sage.errors.__file__).parents[1])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}


@dataclass(frozen=True, slots=True)
class ParsingLimits:
    """On the parsing of one file: bytes of memory, seconds (and one more for each megabyte of the file)."""

    memory: int = 2**30
    seconds: float = 60.0


class Parser:
    """A context: the process runs from the first file to the end of the block. For one thread."""

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
        """What :func:`sage.middleware.cli.ingest.reading.read` gives. One file at a time; leaving early ends the
        process, and the next file starts another.

        Raises :class:`Unreadable` that says why the file cannot be taken in, :class:`sage.errors.ConfigError` where a
        package is missing.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        ended = False
        try:
            seconds = self._seconds(order)
            limits = {"memory": self._limits.memory, "cpu": seconds, "wall": seconds}
            try:
                process.stdin.write(orjson.dumps({**asdict(order), "limits": limits}) + b"\n")
                process.stdin.flush()
            except OSError as exc:
                raise Unreadable(f"the process that was to parse it is gone: {exc}") from None
            refusal: str | None = None
            for line in process.stdout:
                record = orjson.loads(line)
                if "outcome" in record:
                    ended = True
                    self._judge(record, refusal, seconds)
                    return
                refusal = record.get("unreadable", refusal)
                if "unreadable" not in record:
                    yield record
            raise Unreadable("the process that parsed it was ended from outside (out of memory?)")
        finally:
            if not ended:
                self.close()

    def close(self) -> None:
        """Ends the process, and the child in which it parses."""
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

    def _judge(self, end: dict[str, Any], refusal: str | None, seconds: float) -> None:
        """Raises what stands for the child's end, if it was not a good one."""
        memory = f"needs more than {self._limits.memory // 2**20} MiB of memory to be parsed (--max-memory)"
        what = end["outcome"]
        if what == "done":
            return
        if what == "missing":
            raise ConfigError(end["message"])
        if refusal is not None:
            raise Unreadable(refusal)
        if what == "memory" or end.get("signal") in (signal.SIGABRT, signal.SIGKILL):
            raise Unreadable(memory)
        if end.get("signal") in (signal.SIGALRM, signal.SIGXCPU):
            raise Unreadable(f"takes more than {seconds:.0f} s to be parsed (--timeout)")
        if "signal" in end:
            raise Unreadable(f"its parser was ended by {signal.Signals(end['signal']).name}")
        raise Unreadable("its parser failed")
