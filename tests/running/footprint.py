"""What a process takes, as ``/proc`` tells it: memory, open files and threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sage_process import children


@dataclass(frozen=True)
class Footprint:
    """Of a process and all that descend from it; memory in KiB, where what is shared is divided among its users."""

    memory: int
    files: int
    threads: int


def footprint(pid: int) -> Footprint:
    """What ``pid`` takes now."""
    pids = [pid, *children(pid)]
    return Footprint(
        sum(_memory(each) for each in pids),
        sum(len(os.listdir(f"/proc/{each}/fd")) for each in pids),
        sum(len(os.listdir(f"/proc/{each}/task")) for each in pids),
    )


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("the kernel tells no Pss")
