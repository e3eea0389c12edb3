"""The benchmark of the gateway: it counts nothing when all is well, and a spoilt answer is never overlooked."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from project import ROOT

BENCHMARK = ROOT / "benchmarks" / "gateway.py"
SMALL = ["--rounds", "0.01", "--scale", "0.05"]


def run(*options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *SMALL, "--json", *options], capture_output=True, text=True, timeout=120
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_every_row_measures_all_servers_and_finds_no_failure() -> None:
    status, report = run()
    assert {name: own["failures"] for name, own in report["answers"].items() if own["failures"]} == {}, report
    assert status == 0
    for row, subjects in report["rows"].items():
        assert {"pass-through", "gateway"} <= set(subjects), row
        for subject, figures in subjects.items():
            assert all(figure["median"] > 0 for figure in figures.values()), (row, subject, figures)


@pytest.mark.slow
def test_benchmark_counts_spoilt_answers_of_every_server() -> None:
    status, report = run("--corrupt", "0.02")
    assert status == 1
    # Every fiftieth answer is spoilt, whoever asked; none of them may be missed. A third of them are cut: those the
    # gateway asks for again.
    answers = report["answers"]
    for name, share in (("direct", 1), ("pass-through", 1), ("gateway", 2 / 3)):
        assert answers[name]["failures"] >= answers[name]["checked"] // 50 * share, name
    assert any("wrong text" in example for example in answers["direct"]["examples"])
