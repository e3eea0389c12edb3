"""How many processors a process may use: its affinity and the quotas of control groups, of both versions."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import ROOT

from sage.processors import available_cores, available_processors, contention, cpu_quota

V2 = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"
V1 = "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"


def machine(root: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "quota"),
    [
        (V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (
            V2,
            "0::/a/b\n",
            {"sys/fs/cgroup/a/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000"},
            0.5,
        ),
        (V2, "0::/a\n", {"sys/fs/cgroup/a/cpu.max": "400000 100000", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),
        (V2, "0::/gone\n", {}, None),
        (
            V1 + MEMORY,
            "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (V1, "3:cpu,cpuacct:/docker/abc/in\n", {"sys/fs/cgroup/cpu,cpuacct/in/cpu.cfs_quota_us": "-1\n"}, None),
        (
            V1,
            "3:cpu,cpuacct:/elsewhere\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "20000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            0.2,
        ),
        ("", "", {}, None),
        ("no mount\n", "0::/\n", {}, None),
    ],
)
def test_the_smallest_quota_of_all_groups_counts(
    tmp_path: Path, mounts: str, groups: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(machine(tmp_path, mounts, groups, files)) == quota


@pytest.mark.parametrize(("text", "processors"), [("150000 100000", 1), ("20000 100000", 1), ("100000 100000", 1)])
def test_a_fraction_is_left_to_others_but_one_is_the_least(tmp_path: Path, text: str, processors: int) -> None:
    root = machine(tmp_path, V2, "0::/\n", {"sys/fs/cgroup/cpu.max": text})
    assert available_processors(root) == processors
    assert available_cores(root) == processors


def test_a_large_quota_adds_no_processors(tmp_path: Path) -> None:
    root = machine(tmp_path, V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "9000000 100000"})
    assert available_processors(root) == len(os.sched_getaffinity(0))


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    siblings = {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": "0-63" for cpu in cpus}
    root = machine(tmp_path, V2, "0::/\n", siblings)
    assert available_processors(root) == len(cpus)
    assert available_cores(root) == 1


def counted(prepare: str) -> str:
    code = f"import os; {prepare}; from sage.processors import *; print(available_processors(), available_cores())"
    return subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_affinity_counts() -> None:
    assert counted("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})") == "1 1\n"


@contextlib.contextmanager
def limited_group(quota: int) -> Iterator[Path]:
    """A real control group whose processes may use ``quota`` µs of 100 ms; skips where none can be made."""
    name = f"sage-test-{os.getpid()}"
    for parent, files in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": f"{quota}"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": f"{quota} 100000"}),
    ):
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for file, text in files.items():
                (group / file).write_text(text)
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    pytest.skip("no control group can be made here: that takes root and a writable /sys/fs/cgroup")


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor is the least in any case")
def test_a_real_quota_counts() -> None:
    with limited_group(100_000) as group:
        assert counted(f"open('{group}/cgroup.procs', 'w').write(str(os.getpid()))") == "1 1\n"


@pytest.mark.parametrize(
    ("loadavg", "threads"),
    [("0.10 0.2 0.3 1/500 77\n", 0.0), ("0.10 0.2 0.3 96/500 77\n", 96.0), ("64.5 9.0 1.0 2/500 77\n", 64.5)],
)
def test_contention_is_what_wants_a_processor_for_each_that_there_is(
    tmp_path: Path, loadavg: str, threads: float
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text(loadavg)
    assert contention(tmp_path) == max(1.0, threads / (os.cpu_count() or 1))


def test_contention_without_a_file_is_that_of_the_system(tmp_path: Path) -> None:
    assert contention(tmp_path) >= 1
