"""How much memory this machine, or this container, lets programs take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 2**60
"""cgroup v1 writes a number near 2**63 where there is no limit."""


def machine_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes: all of the machine's, or the limit of a control group if that is lower; ``None`` means unknown.

    The limits of all groups above this process count. ``proc`` and ``cgroups`` are where the kernel shows them.
    """
    sizes = [size for size in (_installed(proc), *_limits(proc, cgroups)) if size is not None and size < _UNLIMITED]
    return min(sizes, default=None)


def _installed(proc: Path) -> int | None:
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """The limits in both versions of control groups; in a container the group's path may be that of the host."""
    try:
        groups = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        groups = []
    yield from filter(None, (_number(cgroups / "memory.max"), _number(cgroups / "memory" / "memory.limit_in_bytes")))
    for group in groups:
        _, controllers, path = (*group.split(":", 2), "", "")[:3]
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        directory = root / path.lstrip("/")
        while directory != root and root in directory.parents:
            limit = _number(directory / name)
            if limit is not None:
                yield limit
            directory = directory.parent


def _number(file: Path) -> int | None:
    """The file's number; ``None`` if there is none, which ``max`` means too."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
