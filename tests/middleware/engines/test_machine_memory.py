"""The memory that programs may take: the machine's, or the lowest limit of the control groups above this process."""

from __future__ import annotations

from pathlib import Path

from sage.middleware.engines.machine_memory import machine_memory

GIB = 2**30


def machine(tmp_path: Path, groups: str, **limits: str) -> int | None:
    """Of a machine with 16 GiB. ``limits`` are files below the control groups, with ``__`` for a slash."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       16777216 kB\nMemFree:        1 kB\n")
    (proc / "self" / "cgroup").write_text(groups)
    for name, limit in limits.items():
        file = cgroups / name.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit + "\n")
    return machine_memory(proc, cgroups)


def test_a_machine_without_limits(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/user.slice\n", user__memory_max="max") == 16 * GIB
    assert machine_memory() is not None


def test_a_container_sees_its_limit_at_the_root(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/\n", memory_max=str(2 * GIB)) == 2 * GIB


def test_the_lowest_limit_of_the_groups_above_counts(tmp_path: Path) -> None:
    limits = {"a__memory_max": str(GIB), "a__b__memory_max": str(4 * GIB), "a__b__c__memory_max": "max"}
    assert machine(tmp_path, "0::/a/b/c\n", **limits) == GIB


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    limits = {
        "memory__docker__x__memory_limit_in_bytes": str(3 * GIB),
        "memory__memory_limit_in_bytes": str(2**63 - 4096),
    }
    assert machine(tmp_path, "5:cpu:/y\n4:memory:/docker/x\n", **limits) == 3 * GIB
