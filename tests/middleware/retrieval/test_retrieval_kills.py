"""``kill -9`` in the midst of ingesting: what was acknowledged is there, whole, found, and at once."""

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


def ingest(path: str, life: int) -> None:
    """The child: threads that add new documents, write the same ones anew and delete some, and tell of each
    acknowledgement in a line of its own."""
    store = VectorStore(path, embedder=None)

    def tell(*words: object) -> None:
        os.write(1, " ".join(map(str, words)).encode() + b"\n")  # in one piece: shorter than PIPE_BUF

    def work(thread: int) -> None:
        for n in range(100_000):
            mark = f"b{life}x{thread}x{n}"
            ids = [f"{mark}-{i}" for i in range(BATCH)]
            store.add_documents([f"{mark} all"] * BATCH, ids=ids, vectors=[[life, thread, n, 1.0]] * BATCH)
            tell("added", mark)
            again = [f"again{thread}-{i}" for i in range(BATCH)]
            store.add_documents([f"v{life}x{n} all"] * BATCH, ids=again, vectors=[[life, thread, n, 2.0]] * BATCH)
            tell("again", thread, life, n)
            if n % 5 == 4:
                gone = f"b{life}x{thread}x{n - 2}"
                store.collection.delete([f"{gone}-{i}" for i in range(BATCH)])
                tell("deleted", gone)

    tell("ready")
    for thread in range(THREADS):
        threading.Thread(target=work, args=(thread,)).start()


@dataclass
class Told:
    """What the children of all lives told of."""

    added: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    again: dict[int, tuple[int, int]] = field(default_factory=dict)

    def take(self, line: bytes) -> None:
        kind, *words = line.decode().split()
        if kind == "added":
            self.added.add(words[0])
        elif kind == "deleted":
            self.deleted.add(words[0])
        elif kind == "again":
            thread, life, n = map(int, words)
            self.again[thread] = (life, n)


def live(path: Path, life: int, acknowledgements: int, told: Told, generator: random.Random) -> None:
    """A child from its start to its violent end."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(path), str(life)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    with child.stdout:
        for _ in range(acknowledgements + 1):
            line = child.stdout.readline()
            assert line.endswith(b"\n"), "the child ended by itself"
            told.take(line)
        threading.Event().wait(generator.random() * 0.01)  # anywhere in a commit, not only behind one
        child.kill()
        for line in child.stdout.read().splitlines(keepends=True):
            if line.endswith(b"\n"):
                told.take(line)
    child.wait()


def check(store: VectorStore, told: Told, recent: int) -> None:
    batches: dict[str, int] = {}
    again: dict[int, set[str]] = {}
    vectors = total = 0
    collection = store.collection
    with collection._open() as held, held.store.reading() as reading:
        for rows in reading.rows(0):
            for row in rows:
                total += 1
                mark = row.text.split()[0]
                vectors += row.vector is not None and row.vector.size == 4
                if row.id.startswith("again"):
                    again.setdefault(int(row.id[5:].split("-")[0]), set()).add(mark)
                    continue
                assert row.id.startswith(f"{mark}-")
                batches[mark] = batches.get(mark, 0) + 1
    assert set(batches.values()) <= {BATCH}  # none is half there
    assert told.added - told.deleted <= set(batches) | _perhaps_deleted(told)
    assert not told.deleted & set(batches)
    assert vectors == total == len(store)
    for thread, (life, n) in told.again.items():
        (version,) = again[thread]  # all documents of one write
        assert tuple(map(int, version[1:].split("x"))) >= (life, n)
    assert collection.search_many([_words("all")])[0].total == total
    for mark in sorted(batches)[-recent:]:
        assert collection.search_many([_words(mark)])[0].total == BATCH


def _perhaps_deleted(told: Told) -> set[str]:
    """A child may die between a deletion and telling of it."""
    found = set()
    for mark in told.added:
        life, thread, n = mark.split("x")
        if int(n) % 5 == 2 and f"{life}x{thread}x{int(n) + 2}" in told.added:
            found.add(mark)
    return found


def _words(query: str) -> Search:
    return Search(query=query, mode=Mode.BM25, top_k=1)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    generator = random.Random(os.environ.get("SAGE_TEST_SEED", "kills"))
    told, path = Told(), tmp_path / "c"
    for life in range(KILLS):
        if life % 40 == 39:  # so that what is checked does not grow for ever
            told, path = Told(), tmp_path / f"c{life}"
        live(path, life, generator.randrange(1, 80), told, generator)
        started = time.monotonic()
        with VectorStore(path, embedder=None) as store:
            assert store.search("all", mode="bm25", top_k=1)
            assert time.monotonic() - started < START_SECONDS + SLACK
            check(store, told, 5)
    assert told.added
    assert told.again


if __name__ == "__main__":
    ingest(sys.argv[1], int(sys.argv[2]))
