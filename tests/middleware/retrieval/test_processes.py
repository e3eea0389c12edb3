"""Several processes and threads on one collection."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from retrieval_index import opened
from retrieval_worker import Process

from sage.middleware.retrieval.vector_store import VectorStore

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
SEARCHES = 10_000 if FULL else 400


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    with ExitStack() as stack:
        processes = [stack.enter_context(Process()) for _ in range(3)]
        for process in processes:
            process.do("open", path=str(tmp_path / "c"))
        yield processes


@pytest.mark.slow
def test_all_processes_find_at_once_what_one_has_written(processes: list[Process], tmp_path: Path) -> None:
    generator = random.Random(1)
    written = 0
    for number in range(60 if FULL else 20):
        for index, process in enumerate(processes):
            count = generator.choice([1, 10, 400])
            written += count
            process.send(
                "add",
                documents=[{"text": f"word{number}p{index} shared", "vector": [1.0, number, index]}] * count,
            )
        for process in processes:
            process.receive()
        if number % 5 == 4:
            generator.choice(processes).send("optimize")
        for index in range(3):
            searcher = generator.choice(processes[:2])  # the third one only follows from time to time
            if number % 5 == 4:
                break
            answer = searcher.do("search", mode="bm25", query=f"word{number}p{index}", top_k=1)
            assert answer["total"] in (1, 10, 400)
        else:
            continue
        for process in processes:  # whoever optimizes answers that first
            process.send("search", mode="bm25", query="shared", top_k=1)
        for process in processes:
            answer = process.receive()
            assert (answer or process.receive())["total"] == written
    for process in processes:
        index = process.do("index")
        assert index["problems"] == []
        assert index["error"] is None
        process.do("close")
    with opened(tmp_path / "c") as collection:
        assert collection.index.current().documents == written
        collection.check()


@pytest.mark.slow
def test_a_process_that_dies_while_it_merges_does_no_harm(tmp_path: Path) -> None:
    generator = random.Random(2)
    path = tmp_path / "c"
    with Process() as survivor:
        survivor.do("open", path=str(path))
        for number in range(40 if FULL else 6):
            with Process() as victim:
                victim.do("open", path=str(path))
                documents = [{"id": f"{number}-{i}", "text": f"round{number} all"} for i in range(500)]
                victim.do("add", documents=documents)
                victim.send("optimize")
                threading.Event().wait(generator.random() * 0.05)  # it dies somewhere in the middle
                victim.kill()
            assert survivor.do("search", mode="bm25", query="all", top_k=1)["total"] == 500 * (number + 1)
        survivor.do("optimize")  # nobody has the lease any more
        assert survivor.do("index")["segments"] == 1
        survivor.do("close")
    with opened(path) as collection:
        assert all("was removed" in problem for problem in _problems(collection.index.describe()))
        collection.check()
        assert len(collection.files()) == 1


def _problems(description: dict[str, object]) -> list[str]:
    problems = description["problems"]
    assert isinstance(problems, list)
    return problems


@pytest.mark.slow
@pytest.mark.parametrize("durable", [True, False])
def test_searches_while_ingesting_find_every_acknowledged_document(tmp_path: Path, durable: bool) -> None:
    """And the first search after an acknowledgement finds the document."""
    failures: list[BaseException] = []
    acknowledged = [0, 0]
    remaining = threading.Semaphore(SEARCHES)
    over = threading.Event()
    store = VectorStore(tmp_path / "c" if durable else None, embedder=None)

    def write(writer: int) -> None:
        try:
            number = 0
            while not over.is_set():
                texts = [f"w{writer}n{number + i} common text" for i in range(10)]
                ids = [f"{writer}-{(number + i) % 2000}" for i in range(10)]  # after a while, they are updates
                store.add_documents(texts, ids=ids, vectors=[[writer, 1.0, number + i] for i in range(10)])
                number += 10
                acknowledged[writer] = number
                (result,) = store.search(f"w{writer}n{number - 1}", mode="bm25")
                assert result.id == ids[-1]
        except BaseException as exc:
            failures.append(exc)
            over.set()

    def search(seed: int) -> None:
        generator = random.Random(seed)
        try:
            while remaining.acquire(blocking=False) and not over.is_set():
                writer = generator.randrange(2)
                number = acknowledged[writer] - 1
                if generator.random() < 0.5 and number >= 0:
                    results = store.search(f"w{writer}n{number}", mode="bm25", top_k=1)
                    assert len(results) == 1 or acknowledged[writer] - number > 1000
                else:
                    store.search("common", vector=[1.0, 2.0, 3.0], top_k=5)
        except BaseException as exc:
            failures.append(exc)
            over.set()

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    searchers = [threading.Thread(target=search, args=(seed,)) for seed in range(3)]
    with store:
        for thread in writers + searchers:
            thread.start()
        for thread in searchers:
            thread.join()
        over.set()
        for thread in writers:
            thread.join()
        assert failures == []
        assert len(store) == sum(min(number, 2000) for number in acknowledged)
        store.optimize()
        assert store.search("common", mode="bm25", top_k=1)
