"""The process that parses files for ``sage ingest``: ``python -P -m sage.middleware.ingest.parser``.

It reads one order a line from stdin and forks a child for each. The child writes records as JSON lines to stdout; then
``{"outcome": …}`` tells how the child ended. The child has limits of memory, CPU time and wall time and cannot write
files; the kernel ends it when it exceeds one, so a bomb or a hang costs one file only. The process has one thread,
which makes forking safe; libraries are imported before the fork, once for all files. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson

from sage.errors import SageError
from sage.middleware.ingest.document import FileKind, Unreadable, one_line
from sage.middleware.ingest.reading import Order, load, read

MOST_OUTPUT = 256 * 2**20
"""Limit of the records from one file other than JSON lines, in bytes: no file that people write has more text."""


def main() -> None:
    """Runs orders until stdin ends."""
    for line in sys.stdin.buffer:
        fields = json.loads(line)
        limits = fields.pop("limits")
        order = Order(**{**fields, "kind": FileKind(fields["kind"])})
        try:
            load(order.kind)
        except SageError as exc:
            _write_record({"outcome": "missing", "message": exc.message})
            continue
        child = os.fork()
        if child == 0:
            _run_child(order, limits)
        _, status = os.waitpid(child, 0)
        _write_record(_outcome(status))


def _run_child(order: Order, limits: dict[str, float]) -> NoReturn:
    status = 1
    try:
        _limit(limits)
        _records(order)
        status = 0
    except MemoryError:
        status = 3
    except (Unreadable, SageError) as exc:
        _write_record({"unreadable": str(exc)})
    except OSError as exc:
        _write_record({"unreadable": f"cannot be read: {exc.strerror or exc}"})
    except RecursionError:
        _write_record({"unreadable": "is nested too deeply"})
    except Exception as exc:  # any error of a parser costs this file only
        _write_record({"unreadable": f"its parser failed: {type(exc).__name__}: {one_line(str(exc))}"})
    finally:
        os._exit(status)


def _records(order: Order) -> None:
    size = 0
    for record in read(order):
        line = orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS) + b"\n"
        size += len(line)
        if size > MOST_OUTPUT and order.kind is not FileKind.JSONL:
            raise Unreadable(f"has more than {MOST_OUTPUT // 2**20} MiB of text")
        with _paused_timer():
            _write(line)


def _limit(limits: dict[str, float]) -> None:
    """Sets the limits: bytes of address space, seconds of CPU, seconds of wall time, no files and no core dump."""
    for signum in (signal.SIGALRM, signal.SIGXCPU, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    cpu = max(1, round(limits["cpu"]))
    memory = int(limits["memory"])
    for kind, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, cpu, cpu + 5),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS cannot limit the address space
            resource.setrlimit(kind, (soft, hard))
    signal.setitimer(signal.ITIMER_REAL, limits["wall"])


@contextlib.contextmanager
def _paused_timer() -> Iterator[None]:
    """Stops the timer while the block waits for the reader of the records."""
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, max(remaining, 0.001))


def _outcome(status: int) -> dict[str, Any]:
    if os.WIFSIGNALED(status):
        return {"outcome": "killed", "signal": os.WTERMSIG(status)}
    return {"outcome": {0: "done", 3: "memory"}.get(os.WEXITSTATUS(status), "failed")}


def _write_record(record: dict[str, Any]) -> None:
    _write(orjson.dumps(record) + b"\n")


def _write(line: bytes) -> None:
    view = memoryview(line)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
