"""The benchmark of searches: its figures are whole, and a wrong answer is not overlooked."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project import ROOT

BENCHMARK = ROOT / "benchmarks" / "retrieval.py"


def run(*options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--peers-up-to", "0", *options],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def judged(folder: Path) -> Path:
    folder.mkdir()
    words = ["amber", "birch", "cedar", "dune", "ember"]
    corpus = [{"_id": f"d{i}", "title": word, "text": f"about the {word} and nothing"} for i, word in enumerate(words)]
    queries = [{"_id": f"q{i}", "text": f"what is {word}?"} for i, word in enumerate(words)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    rows = "query\tdocument\tscore\n" + "".join(f"q{i}\td{i if i else 1}\t1\n" for i in range(len(words)))
    (folder / "qrels.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    return folder


@pytest.mark.slow
def test_a_small_run_measures_everything_and_finds_nothing_wrong(tmp_path: Path) -> None:
    status, report = run(
        "--data",
        str(judged(tmp_path / "small")),
        "--size",
        "1500",
        "--queries",
        "15",
        "--seconds",
        "0.6",
        "--clients",
        "1",
        "2",
        "--workers",
        "2",
        "--writers",
        "1",
        "2",
    )
    assert status == 0
    (quality,) = report["quality"]
    assert quality["failures"] == []
    assert quality["ndcg"]["bm25"] == pytest.approx(0.8)  # four of five: the first query's judgement is another's
    leg, store, written, served = report["speed"]
    assert [figures["failures"] for figures in report["speed"]] == [[], [], [], []]
    assert (leg["checked"], store["checked"] > 60, written["checked"]) == (45, True, 6)
    assert 0 < leg["values"]["keywords p50 ms"] <= leg["values"]["keywords p99 ms"]
    assert store["values"]["recall@10"] >= 0.98
    assert {"hybrid p50 ms", "vectors, filter keeps 1 % p50 ms", "open and first search s"} <= set(store["values"])
    assert written["values"]["durable batches of 10 a second, 2 writers"] > 0
    assert served["subject"] == "SAGE over HTTP, 2 workers"
    assert served["values"]["hybrid, vectors kept, 2 clients, a second"] > 0
    assert served["values"]["hybrid, vectors kept, 2 clients to 1, ×"] > 0
