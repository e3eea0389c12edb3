"""How the test files are dealt out to processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from file_costs import deal_out, files_of
from project import ROOT


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_file_is_in_one_share_and_shares_take_about_the_same(count: int) -> None:
    files = files_of([str(ROOT / "tests")])
    shares = deal_out(files, count)
    assert sorted(file for share in shares for file in share) == files
    sizes = [len(share) for share in shares]
    assert len(files) > 200
    assert min(sizes) > len(files) / count / 3


def test_files_and_tests_that_were_named_are_dealt_out_alone(tmp_path: Path) -> None:
    for name in ("test_one.py", "test_two.py", "other.py"):
        (tmp_path / name).touch()
    one, two = tmp_path / "test_one.py", tmp_path / "test_two.py"
    assert files_of([str(tmp_path)]) == [one, two]
    assert files_of([f"{two}::test_x", str(two)]) == [two]
    assert sorted(deal_out([one, two], 3)) == [[], [one], [two]]


@pytest.mark.slow
def test_processes_with_a_share_each_run_all_fast_tests() -> None:
    """Those that only have slow ones are not loaded, nor does a process without a file fail."""
    chosen = ["tests/test_fair_queue.py", "tests/middleware/routers/test_large_bodies.py"]
    arguments = ["-m", "not slow", "--dist", "each", "-n", "2", *chosen]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    alone = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "not slow", *chosen[:1]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == alone.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].split(" in ")[0] == alone.stdout.splitlines()[-1].split(" in ")[0]
