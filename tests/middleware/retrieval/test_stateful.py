"""After any operations of two processes in any order, answers are those of a brute-force model."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from retrieval_worker import Here, Process, Worker

from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.settings.retrieval import AnalysisOptions

WORDS = ["apple", "bread", "coffee", "the", "running", "runs", "苹果", "咖啡好喝", "A-17"]
K1, B = 1.5, 0.75
FULL = bool(os.environ.get("SAGE_TEST_FULL"))

texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
ids = st.integers(0, 15).map(lambda number: f"d{number}")
vectors = (
    st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any).map(lambda numbers: [float(n) for n in numbers])
)
metadata = st.fixed_dictionaries({}, optional={"n": st.integers(0, 3), "tag": st.sampled_from(["a", "b"])})
batches = st.lists(
    st.fixed_dictionaries({"id": ids, "text": texts, "metadata": metadata}, optional={"vector": vectors}),
    min_size=1,
    max_size=8,
    unique_by=lambda document: document["id"],
)
filters = st.none() | st.sampled_from([{"tag": "a"}, {"n": {"$gte": 2}}, {"$or": [{"n": 0}, {"tag": "b"}]}])


def passes(condition: dict[str, Any] | None, metadata: dict[str, Any]) -> bool:
    if condition is None:
        return True
    if "$or" in condition:
        return any(passes(one, metadata) for one in condition["$or"])
    if condition == {"n": {"$gte": 2}}:
        return bool(metadata.get("n", -1) >= 2)
    return all(key in metadata and metadata[key] == value for key, value in condition.items())


@dataclass
class Document:
    terms: Counter[str]
    metadata: dict[str, Any]
    vector: list[float] | None


class Model:
    """All documents, the oldest first."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.analyzer = Analyzer(AnalysisOptions())

    def add(self, documents: list[dict[str, Any]]) -> None:
        for one in documents:
            self.documents.pop(one["id"], None)
        for one in documents:
            terms = Counter(self.analyzer.terms(one["text"]))
            self.documents[one["id"]] = Document(terms, one.get("metadata", {}), one.get("vector"))

    def bm25(self, query: str, condition: dict[str, Any] | None) -> dict[str, float]:
        """As ``bm25.py`` defines it, document by document."""
        documents = self.documents.values()
        mean = sum(document.terms.total() for document in documents) / max(1, len(documents))
        scores = {}
        for name, document in self.documents.items():
            wanted = [term for term in self.analyzer.query_terms(query) if term in document.terms]
            if not wanted or not passes(condition, document.metadata):
                continue
            norm = 1 - B + B * document.terms.total() / mean
            scores[name] = math.fsum(
                self._idf(term) * document.terms[term] / (document.terms[term] + K1 * norm) for term in wanted
            )
        return scores

    def _idf(self, term: str) -> float:
        holding = sum(term in document.terms for document in self.documents.values())
        return math.log(1 + (len(self.documents) - holding + 0.5) / (holding + 0.5))

    def dense(self, vector: list[float], condition: dict[str, Any] | None) -> dict[str, float]:
        query = np.array(vector) / np.linalg.norm(vector)
        return {
            name: float(np.array(document.vector) @ query / np.linalg.norm(document.vector))
            for name, document in self.documents.items()
            if document.vector is not None and passes(condition, document.metadata)
        }


def check(answer: dict[str, Any], expected: dict[str, float], top_k: int, offset: int, tolerance: float) -> None:
    """Every score, the order, the page and the total."""
    assert answer["total"] == len(expected)
    best = sorted(expected.values(), reverse=True)[offset : offset + top_k]
    assert [score for _, score in answer["results"]] == pytest.approx(best, rel=tolerance, abs=tolerance)
    names = [name for name, _ in answer["results"]]
    assert len(set(names)) == len(names)
    for name, score in answer["results"]:
        assert score == pytest.approx(expected[name], rel=tolerance, abs=tolerance)


def machine(second: Worker) -> type[RuleBasedStateMachine]:
    class TwoProcesses(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.directory = tempfile.TemporaryDirectory()
            self.workers: list[Worker] = [Here(), second]
            self.model = Model()
            for worker in self.workers:
                worker.do("open", path=f"{self.directory.name}/c")

        @rule(who=st.integers(0, 1), documents=batches)
        def add(self, who: int, documents: list[dict[str, Any]]) -> None:
            assert self.workers[who].do("add", documents=documents) == [document["id"] for document in documents]
            self.model.add(documents)

        @rule(who=st.integers(0, 1), start=st.integers(0, 3))
        def add_many(self, who: int, start: int) -> None:
            documents = [
                {"id": f"m{start * 100 + number}", "text": f"{WORDS[number % 5]} {WORDS[number % 7]}"}
                for number in range(300)
            ]
            self.workers[who].do("add", documents=documents)
            self.model.add(documents)

        @rule(who=st.integers(0, 1), names=st.lists(ids, min_size=1, max_size=5))
        def delete(self, who: int, names: list[str]) -> None:
            removed = [name for name in set(names) if self.model.documents.pop(name, None)]
            assert self.workers[who].do("delete", ids=names) == len(removed)

        @rule(who=st.integers(0, 1), condition=filters.filter(bool))
        def delete_by_filter(self, who: int, condition: dict[str, Any]) -> None:
            removed = [name for name, document in self.model.documents.items() if passes(condition, document.metadata)]
            for name in removed:
                del self.model.documents[name]
            assert self.workers[who].do("delete", filter=condition) == len(removed)

        @rule(
            who=st.integers(0, 1),
            query=texts.filter(bool),
            condition=filters,
            top_k=st.integers(1, 10),
            offset=st.integers(0, 4),
        )
        def words(self, who: int, query: str, condition: dict[str, Any] | None, top_k: int, offset: int) -> None:
            answer = self.workers[who].do(
                "search", mode="bm25", query=query, filter=condition, top_k=top_k, offset=offset
            )
            expected = self.model.bm25(query, condition)
            check(answer, expected, top_k, offset, 1e-9)
            order = sorted(expected, key=lambda name: -round(expected[name], 10))  # stable: the older first
            assert [name for name, _ in answer["results"]] == order[offset : offset + top_k]

        @rule(
            who=st.integers(0, 1),
            vector=vectors,
            condition=filters,
            top_k=st.integers(1, 10),
            offset=st.integers(0, 4),
            exact=st.booleans(),
        )
        def nearest(
            self,
            who: int,
            vector: list[float],
            condition: dict[str, Any] | None,
            top_k: int,
            offset: int,
            exact: bool,
        ) -> None:
            answer = self.workers[who].do(
                "search", mode="dense", vector=vector, filter=condition, top_k=top_k, offset=offset, exact=exact
            )
            check(answer, self.model.dense(vector, condition), top_k, offset, 1e-5)

        @rule(who=st.integers(0, 1))
        def optimize(self, who: int) -> None:
            self.workers[who].do("optimize")

        @rule(who=st.integers(0, 1))
        def reopen(self, who: int) -> None:
            self.workers[who].do("open", path=f"{self.directory.name}/c")

        @invariant()
        def both_count_the_same(self) -> None:
            if not hasattr(self, "workers"):
                return
            expected = self.model.bm25("apple running", None)
            for worker in self.workers:
                answer = worker.do("search", mode="bm25", query="apple running", top_k=3)
                check(answer, expected, 3, 0, 1e-9)
                assert worker.do("index")["problems"] == []
                assert worker.do("index")["error"] is None

        def teardown(self) -> None:
            if hasattr(self, "workers"):
                for worker in self.workers:
                    worker.do("close")
                self.directory.cleanup()

    return TwoProcesses


@pytest.fixture
def second() -> Iterator[Process]:
    with Process() as process:
        yield process


@pytest.mark.slow
def test_two_processes_answer_as_a_model_does(second: Process) -> None:
    run_state_machine_as_test(
        machine(second),
        settings=hypothesis.settings(
            max_examples=400 if FULL else 12,
            stateful_step_count=50 if FULL else 25,
            deadline=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
