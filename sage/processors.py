"""How many processors this process may use (affinity, and the CPU quota of its container, cgroup v1 and v2), and how
many threads share them.

``os.cpu_count()`` counts the host's, so a program in a container with two CPUs of sixty-four would start sixty-four
threads that wait for each other. Source: Linux, ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``),
``Documentation/scheduler/sched-bwc.rst`` (``cpu.cfs_quota_us``), and proc(5) (``mountinfo``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def available_processors(root: Path = _ROOT) -> int:
    """Whole processors that this process may use, at least one.

    A fraction of a processor is left for other threads of the container: a thread that computes for longer than its
    share stops with all others of the container until the next period. ``root`` is where ``/proc`` and ``/sys`` are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def available_cores(root: Path = _ROOT) -> int:
    """The same, but the threads that share one core count once: computing with all of them is slower than with one."""
    processors = available_processors(root)
    if not hasattr(os, "sched_getaffinity"):
        return processors
    topology = (root / f"sys/devices/system/cpu/cpu{cpu}/topology" for cpu in os.sched_getaffinity(0))
    cores = {_read(path / "thread_siblings_list") or str(path) for path in topology}
    return min(processors, len(cores))


def contention(root: Path = _ROOT) -> float:
    """How many threads of all processes want a processor now, for each that the machine has; at least 1.

    The larger of those that run or wait at this moment, and of the average of the last minute, which counts those
    that wait for a disk, too.
    """
    fields = (_read(root / "proc/loadavg") or "").split()
    try:
        wanted = max(float(fields[0]), float(fields[3].partition("/")[0]))
    except (IndexError, ValueError):
        wanted = os.getloadavg()[0] if hasattr(os, "getloadavg") else 1.0
    return max(1.0, wanted / (os.cpu_count() or 1))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The smallest quota of the control groups that hold this process, in processors; ``None`` means no quota."""
    quotas = [quota for directory in _groups(root) if (quota := _quota(directory)) is not None]
    return min(quotas, default=None)


@dataclass(frozen=True, slots=True)
class _Mount:
    """A hierarchy of control groups: the group at its ``top``, and the directory where that group is mounted."""

    top: PurePosixPath
    directory: Path


def _groups(root: Path) -> Iterator[Path]:
    """The directories of the control groups that limit the CPU of this process, each below the next."""
    mounts = _mounts(root)
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        controller = "cpu" if "cpu" in controllers.split(",") else controllers
        mount = mounts.get(controller)
        if mount is None:
            continue
        within = PurePosixPath(group)
        # A container without a namespace of its own for groups reads the host's name of its group.
        below = within.relative_to(mount.top) if within.is_relative_to(mount.top) else PurePosixPath()
        directory = mount.directory / below
        yield directory
        yield from (parent for parent in directory.parents if parent.is_relative_to(mount.directory))


def _mounts(root: Path) -> dict[str, _Mount]:
    """Where the hierarchies are mounted: ``cpu`` of version 1, and the nameless one of version 2."""
    mounts: dict[str, _Mount] = {}
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        place, separator, kind = line.partition(" - ")
        fields, kinds = place.split(), kind.split()
        if not separator or len(fields) < 5 or len(kinds) < 3 or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        controller = "" if kinds[0] == "cgroup2" else "cpu" if "cpu" in kinds[2].split(",") else None
        if controller is not None:
            mounts.setdefault(controller, _Mount(PurePosixPath(fields[3]), root / fields[4].lstrip("/")))
    return mounts


def _quota(directory: Path) -> float | None:
    """What the control group in ``directory`` may use, in processors; ``None`` means no quota of its own."""
    both = (_read(directory / "cpu.max") or "").split()
    if not both:
        both = [_read(directory / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    try:
        quota, period = map(int, both)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
