"""The benchmark of the gateway: it counts nothing when all is well, and a spoilt answer is never overlooked."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from project import ROOT

BENCHMARK = ROOT / "benchmarks" / "gateway.py"
SMALL = ["--quick", "--requests", "5000", "--streams", "200", "--chunks", "20", "--connections", "8"]


def run(*options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *SMALL, "--json", *options], capture_output=True, text=True, timeout=120
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_benchmark_has_no_failures_and_measures_everything():
    status, figures = run()
    assert status == 0
    assert set(figures) == {"direct", "pass-through", "gateway"}
    for name, own in figures.items():
        assert (own["failures"], own["examples"]) == (0, []), name
        assert own["checked"] > 5000 / 5
        assert own["per_second"] > 0
    gateway = figures["gateway"]
    assert gateway["request_us"] > 0
    assert figures["pass-through"]["request_us"] > 0
    assert 0 < gateway["ready_s"] < 30
    assert 10 < gateway["idle_pss_mib"] <= gateway["idle_rss_mib"] + 1


@pytest.mark.slow
def test_benchmark_counts_spoilt_answers_of_every_server():
    status, figures = run("--corrupt", "0.02")
    assert status == 1
    # Every fiftieth answer is spoilt, whoever asked; none of them may be missed. A third of them are cut: those the
    # gateway asks for again.
    for name, share in (("direct", 1), ("pass-through", 1), ("gateway", 2 / 3)):
        assert figures[name]["failures"] >= figures[name]["checked"] // 50 * share, name
    assert any("wrong text" in example for example in figures["direct"]["examples"])
