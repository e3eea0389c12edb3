"""The process that parses files for ``sage ingest``: ``python -P -m sage.middleware.cli.ingest.parser``.

It reads an order a line from stdin, forks a child for each, and writes what that says to stdout: records as JSON lines,
then ``{"outcome": …}`` with what became of the child. The child has limits of memory, of CPU time and of time by the
clock, cannot write files, and dies by the kernel's hand when it passes one, so that a bomb or a hang costs one file.
One thread, so that forking is sound; libraries are imported before the fork, once for all files. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import orjson

from sage.errors import SageError
from sage.middleware.cli.ingest.document import FileKind, Unreadable, one_line
from sage.middleware.cli.ingest.reading import Order, load, read

MOST_OUTPUT = 256 * 2**20
"""Bytes of records from one file other than JSON lines: no file that people write has more text."""


def main() -> None:
    """Takes orders until stdin ends."""
    for line in sys.stdin.buffer:
        order = orjson.loads(line)
        limits = order.pop("limits")
        wanted = Order(**{**order, "kind": FileKind(order["kind"])})
        try:
            load(wanted.kind)
        except SageError as exc:
            _say({"outcome": "missing", "message": exc.message})
            continue
        child = os.fork()
        if child == 0:
            _be_child(wanted, limits)
        _, status = os.waitpid(child, 0)
        _say(_end(status))


def _be_child(order: Order, limits: dict[str, float]) -> NoReturn:
    status = 1
    try:
        _limit(limits)
        _records(order)
        status = 0
    except MemoryError:
        status = 3
    except (Unreadable, SageError) as exc:
        _say({"unreadable": str(exc)})
    except OSError as exc:
        _say({"unreadable": f"cannot be read: {exc.strerror or exc}"})
    except RecursionError:
        _say({"unreadable": "is nested too deeply"})
    except Exception as exc:  # a parser's own fault, whatever it is, costs this file only
        _say({"unreadable": f"its parser failed: {type(exc).__name__}: {one_line(str(exc))}"})
    finally:
        os._exit(status)


def _records(order: Order) -> None:
    said = 0
    for record in read(order):
        line = orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS) + b"\n"
        said += len(line)
        if said > MOST_OUTPUT and order.kind is not FileKind.JSONL:
            raise Unreadable(f"has more than {MOST_OUTPUT // 2**20} MiB of text")
        with _clock_stopped():
            _write(line)


def _limit(limits: dict[str, float]) -> None:
    """Memory in bytes of address space, seconds of CPU, seconds by the clock; no files and no core."""
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
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of address space
            resource.setrlimit(kind, (soft, hard))
    signal.setitimer(signal.ITIMER_REAL, limits["wall"])


@contextlib.contextmanager
def _clock_stopped() -> Iterator[None]:
    """Waiting for whoever takes the records does not count."""
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))


def _end(status: int) -> dict[str, Any]:
    if os.WIFSIGNALED(status):
        return {"outcome": "killed", "signal": os.WTERMSIG(status)}
    return {"outcome": {0: "done", 3: "memory"}.get(os.WEXITSTATUS(status), "failed")}


def _say(record: dict[str, Any]) -> None:
    _write(orjson.dumps(record) + b"\n")


def _write(line: bytes) -> None:
    view = memoryview(line)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
