"""An engine's family as ``/proc`` shows it: its processes, their memory and their processor time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path


def descendants(root: int) -> tuple[int, ...]:
    """``root`` and all its descendants, parents before their children (Linux; elsewhere ``root`` alone)."""
    return _tree(root, _children())


def proportional_memory(pids: Iterable[int]) -> int | None:
    """Bytes of memory that these processes take, shared pages counted in parts (PSS); ``None`` if unknown."""
    sizes = [size for pid in pids if (size := _pss(pid)) is not None]
    return sum(sizes) if sizes else None


def processor_seconds(pids: Iterable[int]) -> float:
    """Seconds of processor time that these processes have taken so far."""
    return sum(map(_processor_seconds, pids))


def kill_marked(mark: bytes) -> None:
    """SIGKILL for every process that was started with ``mark`` in its environment, and all its descendants.

    Until none is left or 5 s have passed. Children go before their parents: a program that renames itself (vLLM's
    workers do) writes over its environment, so that only its parents show where it belongs.
    """
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        children = _children()
        family = {pid for marked in _processes() if _has_mark(marked, mark) for pid in _tree(marked, children)}
        if not family:
            return
        for pid in family:
            if family.isdisjoint(children.get(pid, ())):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> dict[int, list[int]]:
    """The children of every process."""
    children: dict[int, list[int]] = {}
    for pid in _processes():
        with contextlib.suppress(OSError, IndexError):
            state, parent = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state != b"Z":  # it has ended; its parent has not waited for it yet
                children.setdefault(int(parent), []).append(pid)
    return children


def _tree(root: int, children: dict[int, list[int]]) -> tuple[int, ...]:
    tree = [root]
    for pid in tree:  # grows during the loop
        tree.extend(children.get(pid, ()))
    return tuple(tree)


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []  # no /proc on this system


def _pss(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()
    except OSError:
        return None  # gone, or another user's
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:")), None)


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # gone, or another user's
