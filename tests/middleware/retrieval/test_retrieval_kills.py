"""``kill -9`` while documents are added: all that was acknowledged is there, complete, and found at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sage.middleware.retrieval.types.search import Mode, Search
from sage.middleware.retrieval.vector_store import VectorStore

KILLS = 200 if os.environ.get("SAGE_TEST_FULL") else 10
THREADS = 4
BATCH = 10
START_SECONDS = 2.0
SLACK = 8.0


def ingest(path: str, run: int) -> None:
    """The child: threads that add new documents, replace the same ones again and again, and delete some. It reports
    each acknowledgement in a line of its own."""
    store = VectorStore(path, embedder=None)

    def report(*words: object) -> None:
        os.write(1, " ".join(map(str, words)).encode() + b"\n")  # in one piece: shorter than PIPE_BUF

    def work(thread: int) -> None:
        for n in range(100_000):
            mark = f"b{run}x{thread}x{n}"
            ids = [f"{mark}-{i}" for i in range(BATCH)]
            store.add_documents([f"{mark} all"] * BATCH, ids=ids, vectors=[[run, thread, n, 1.0]] * BATCH)
            report("added", mark)
            versions = [f"again{thread}-{i}" for i in range(BATCH)]
            store.add_documents([f"v{run}x{n} all"] * BATCH, ids=versions, vectors=[[run, thread, n, 2.0]] * BATCH)
            report("again", thread, run, n)
            if n % 5 == 4:
                deleted = f"b{run}x{thread}x{n - 2}"
                store.collection.delete([f"{deleted}-{i}" for i in range(BATCH)])
                report("deleted", deleted)

    report("ready")
    for thread in range(THREADS):
        threading.Thread(target=work, args=(thread,)).start()


@dataclass
class Acknowledged:
    """What the children of all runs reported."""

    added: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    versions: dict[int, tuple[int, int]] = field(default_factory=dict)

    def take(self, line: bytes) -> None:
        kind, *words = line.decode().split()
        if kind == "added":
            self.added.add(words[0])
        elif kind == "deleted":
            self.deleted.add(words[0])
        elif kind == "again":
            thread, run, n = map(int, words)
            self.versions[thread] = (run, n)


def run_and_kill(
    path: Path, run: int, acknowledgements: int, acknowledged: Acknowledged, generator: random.Random
) -> None:
    """Starts a child, and kills it after some acknowledgements."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(path), str(run)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    with child.stdout:
        for _ in range(acknowledgements + 1):
            line = child.stdout.readline()
            assert line.endswith(b"\n"), "the child ended by itself"
            acknowledged.take(line)
        threading.Event().wait(generator.random() * 0.01)  # anywhere in a commit, not only behind one
        child.kill()
        for line in child.stdout.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                acknowledged.take(line)
    child.wait()


def check(store: VectorStore, acknowledged: Acknowledged, recent: int) -> None:
    batches: dict[str, int] = {}
    versions: dict[int, set[str]] = {}
    vectors = total = 0
    collection = store.collection
    with collection._open() as opened, opened.store.reading() as reading:
        for rows in reading.rows(0):
            for row in rows:
                total += 1
                mark = row.text.split()[0]
                vectors += row.vector is not None and row.vector.size == 4
                if row.id.startswith("again"):
                    versions.setdefault(int(row.id[5:].split("-")[0]), set()).add(mark)
                    continue
                assert row.id.startswith(f"{mark}-")
                batches[mark] = batches.get(mark, 0) + 1
    assert set(batches.values()) <= {BATCH}  # none is half there
    assert acknowledged.added - acknowledged.deleted <= set(batches) | _perhaps_deleted(acknowledged)
    assert not acknowledged.deleted & set(batches)
    assert vectors == total == len(store)
    for thread, (run, n) in acknowledged.versions.items():
        (version,) = versions[thread]  # all documents of one write
        assert tuple(map(int, version[1:].split("x"))) >= (run, n)
    assert collection.search_many([_words("all")])[0].total == total
    for mark in sorted(batches)[-recent:]:
        assert collection.search_many([_words(mark)])[0].total == BATCH


def _perhaps_deleted(acknowledged: Acknowledged) -> set[str]:
    """A child may die between a deletion and its report."""
    marks = set()
    for mark in acknowledged.added:
        run, thread, n = mark.split("x")
        if int(n) % 5 == 2 and f"{run}x{thread}x{int(n) + 2}" in acknowledged.added:
            marks.add(mark)
    return marks


def _words(query: str) -> Search:
    return Search(query=query, mode=Mode.BM25, top_k=1)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    generator = random.Random(os.environ.get("SAGE_TEST_SEED", "kills"))
    acknowledged, path = Acknowledged(), tmp_path / "c"
    for run in range(KILLS):
        if run % 40 == 39:  # so that what is checked does not grow for ever
            acknowledged, path = Acknowledged(), tmp_path / f"c{run}"
        run_and_kill(path, run, generator.randrange(1, 80), acknowledged, generator)
        started = time.monotonic()
        with VectorStore(path, embedder=None) as store:
            assert store.search("all", mode="bm25", top_k=1)
            assert time.monotonic() - started < START_SECONDS + SLACK
            check(store, acknowledged, 5)
    assert acknowledged.added
    assert acknowledged.versions


if __name__ == "__main__":
    ingest(sys.argv[1], int(sys.argv[2]))
