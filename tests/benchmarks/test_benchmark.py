"""The benchmark of the gateway: it counts nothing when all is well, and a spoilt answer is never overlooked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

BENCHMARK = ROOT / "benchmarks" / "gateway.py"
SMALL = ["--rounds", "0.01", "--scale", "0.05"]
FULL = "SAGE_TEST_FULL" in os.environ
ROWS = [
    *("open-streams", "request", "latency", "slow", "chunk", "long-streams", "prompt-100k", "prompt-1m"),
    *("english-100k", "english-1m", "beside-images", "beside-prompts", "first-chunks", "workers"),
]
"""All that ask for answers."""
CHOSEN = ROWS if FULL else ["open-streams", "request", "chunk", "english-100k", "workers"]
"""Short answers and long ones, whole and streamed, of one process and of several."""


def run(*options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *SMALL, "--json", *options], capture_output=True, text=True, timeout=120
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_no_row_finds_a_failure_where_none_is() -> None:
    status, report = run(*([] if FULL else ["--rows", "start", "request", "chunk", "prompt-100k"]))
    for row, subjects in report["answers"].items():
        assert [(row, name, own["examples"]) for name, own in subjects.items() if own["failures"]] == []
        assert "gateway" in subjects
        assert all(own["checked"] > 0 for own in subjects.values())
    assert status == 0
    rows = report["rows"]
    assert set(report["answers"]) == set(rows) - {"start"}
    assert {"direct", "pass-through", "gateway"} <= set(rows["request"])
    assert all(own["request_us"]["median"] > 0 and own["per_second"]["median"] > 0 for own in rows["request"].values())
    assert 10 < rows["start"]["gateway"]["idle_pss"]["median"] <= rows["start"]["gateway"]["idle_rss"]["median"] + 1
    assert 0 < rows["start"]["gateway"]["ready_s"]["median"] < 30


@pytest.mark.slow
def test_spoilt_answers_are_counted_in_every_row() -> None:
    status, report = run("--corrupt", "0.34", "--rows", *CHOSEN)
    assert status == 1
    assert set(report["answers"]) == set(CHOSEN)
    for row, subjects in report["answers"].items():
        assert sum(own["failures"] for own in subjects.values()) > 0, row
    # Every third answer is spoilt, whoever asked; none of them may be missed. A third of them are cut: those the
    # gateway asks for again.
    answers = report["answers"]["request"]
    for name, share in (("direct", 1), ("pass-through", 1), ("gateway", 2 / 3)):
        assert answers[name]["failures"] >= answers[name]["checked"] // 3 * share, name
    assert any("wrong text" in example for example in answers["direct"]["examples"])


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_an_error_that_tells_how(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--peer", "rolter", "--peers-in", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "rolter is not installed: python -m venv rolter && rolter/bin/pip install 'rolter'" in done.stderr
