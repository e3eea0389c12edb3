"""How fast a collection of made documents answers, takes in and opens, and what it takes on disk. Every answer that is
timed is also checked: a figure with failures is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from retrieval_made import Asked, Made, Nearest

from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.keywords.compiled import kernel_of_process
from sage.middleware.retrieval.keywords.postings import KeywordIndex
from sage.middleware.retrieval.keywords.search import KeywordLeg
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.retrieval.vectors.compiled_codes import kernels_of_process
from sage.middleware.settings.retrieval import KeywordOptions

TOP = 10


@dataclass(slots=True)
class Figures:
    """Of one subject at one size: numbers by name, and what was wrong with its answers."""

    subject: str
    size: int
    values: dict[str, float] = field(default_factory=dict)
    checked: int = 0
    failures: list[str] = field(default_factory=list)

    def check(self, right: bool, what: str) -> None:
        self.checked += 1
        if not right:
            self.failures.append(f"{self.subject}, {self.size}: {what}")

    def timed(self, name: str, asked: Sequence[Any], ask: Callable[[Any], Any]) -> list[Any]:
        """Answers, and milliseconds of this thread's CPU a query: median and 99th percentile."""
        for each in asked[:5]:
            ask(each)
        answers, spent = [], []
        for each in asked:
            start = time.thread_time()
            answers.append(ask(each))
            spent.append((time.thread_time() - start) * 1e3)
        self.values[f"{name} p50 ms"] = float(np.median(spent))
        self.values[f"{name} p99 ms"] = float(np.percentile(spent, 99))
        return answers


def keyword_leg(made: Made, queries: int) -> Figures:
    """The keyword leg by itself, over one merged segment."""
    figures = Figures("keyword leg", made.size)
    start = time.thread_time()
    index = KeywordIndex.merge([(KeywordIndex.build(chunk.words), None) for chunk in made.chunks()])
    figures.values["build and merge docs/s (with making them)"] = made.size / (time.thread_time() - start)
    figures.values["bytes a document"] = sum(array.nbytes for array in index.arrays().values()) / made.size
    leg = KeywordLeg([(index, None)], KeywordOptions())
    asked = [KeywordQuery(tuple(each.words)) for each in made.asked(queries)]
    if (kernel := kernel_of_process(index.frequencies.dtype.name)) is not None:
        kernel.wait()
    if (vector_kernels := kernels_of_process()) is not None:
        vector_kernels.wait()
    answers = figures.timed("keywords", asked, lambda query: leg.top(query, TOP, [None]))
    for query, hits in zip(asked, answers, strict=True):
        holding = np.unique(np.concatenate([index.postings(term)[0] for term in query.terms]))
        figures.check(hits.total == len(holding), f"{query.terms}: total {hits.total}, not {len(holding)}")
        scores, _ = leg.scored(query, holding.astype(np.int64))
        best = np.lexsort((holding, -scores))[:TOP]
        figures.check(hits.rows.tolist() == holding[best].tolist(), f"{query.terms}: not the best rows")
        figures.check(bool(np.allclose(hits.scores, scores[best], rtol=1e-12)), f"{query.terms}: other scores")
    return figures


def store(made: Made, queries: int, directory: Path, embedder: str | None = None) -> Figures:
    """Whole searches by the public door, texts and metadata fetched. ``embedder`` is kept with the collection; every
    document brings its vector."""
    figures = Figures("SAGE", made.size)
    asked = made.asked(queries)
    nearest = Nearest(asked, TOP)
    with VectorStore(directory, embedder=embedder, dimension=made.dimension) as opened:
        raw = _fill(opened, made, nearest, figures)
        start = time.process_time()
        opened.optimize()
        figures.values["optimize s"] = time.process_time() - start
        _words(opened, asked, figures)
        _vectors(opened, asked, nearest, figures)
        _hybrid(opened, asked, figures)
    figures.values["bytes a document beyond text and vectors"] = (
        sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) - raw
    ) / made.size
    _open(directory, asked, made.size, embedder, figures)
    return figures


def _fill(opened: VectorStore, made: Made, nearest: Nearest, figures: Figures) -> int:
    """Adds all documents; returns the bytes of their texts and vectors."""
    raw, spent, walled = 0, 0.0, 0.0
    for chunk in made.chunks():
        texts = chunk.texts
        raw += sum(map(len, texts)) + chunk.vectors.nbytes
        metadatas = [{"bucket": bucket} for bucket in chunk.buckets.tolist()]
        start, clock = time.process_time(), time.perf_counter()
        opened.add_documents(texts, ids=chunk.ids, metadatas=metadatas, vectors=chunk.vectors)
        spent += time.process_time() - start
        walled += time.perf_counter() - clock
        nearest.pass_by(chunk)
    figures.values["ingest docs/s of CPU"] = made.size / spent
    figures.values["ingest docs/s of wall time"] = made.size / walled
    figures.check(len(opened) == made.size, f"{len(opened)} documents are in it")
    return raw


def _words(opened: VectorStore, asked: Sequence[Asked], figures: Figures) -> None:
    answers = figures.timed("words, whole search", asked, lambda each: opened.search(" ".join(each.words), mode="bm25"))
    for each, results in zip(asked, answers, strict=True):
        figures.check(bool(results) and _ordered(results), f"{each.words}: no order")
        figures.check(
            all(set(each.words) & set(result.text.split()) for result in results), f"{each.words}: found without a word"
        )


def _vectors(opened: VectorStore, asked: Sequence[Asked], nearest: Nearest, figures: Figures) -> None:
    truth = nearest.ids()
    answers = figures.timed("vectors", asked, lambda each: opened.search(vector=each.vector, mode="dense"))
    found = [{result.id for result in results} for results in answers]
    shares = [len(ids & true) / len(true) for ids, true in zip(found, truth, strict=True)]
    figures.values["recall@10"] = sum(shares) / len(shares)
    for each, results, true in list(zip(asked, answers, truth, strict=True))[:20]:
        figures.check(_ordered(results), "vectors: no order")
        exact = {result.id for result in opened.search(vector=each.vector, mode="dense", exact=True)}
        figures.check(len(exact & true) >= len(true) - 1, "exact search differs from brute force")  # one: a near tie
    for name, condition, share in (("10 %", {"bucket": {"$lt": 10}}, 10), ("1 %", {"bucket": 7}, 1)):
        answers = figures.timed(
            f"vectors, filter keeps {name}",
            asked,
            lambda each, condition=condition: opened.search(vector=each.vector, mode="dense", filter=condition),
        )
        for results in answers:
            buckets = [result.metadata["bucket"] for result in results]
            right = all(bucket < 10 if share == 10 else bucket == 7 for bucket in buckets)
            figures.check(right and bool(results), f"filter {name}: {buckets}")


def _hybrid(opened: VectorStore, asked: Sequence[Asked], figures: Figures) -> None:
    answers = figures.timed(
        "hybrid", asked, lambda each: opened.search(" ".join(each.words), vector=each.vector, mode="hybrid")
    )
    for each, results in zip(asked, answers, strict=True):
        figures.check(len(results) == TOP and _ordered(results), f"hybrid {each.words}: no order")


def _open(directory: Path, asked: Sequence[Asked], size: int, embedder: str | None, figures: Figures) -> None:
    start = time.perf_counter()
    with VectorStore(directory, embedder=embedder) as opened:
        results = opened.search(" ".join(asked[0].words), vector=asked[0].vector)
        figures.values["open and first search s"] = time.perf_counter() - start
        figures.check(bool(results) and len(opened) == size, "opened with other documents")


def _ordered(results: Sequence[Any]) -> bool:
    scores = [result.score for result in results]
    return scores == sorted(scores, reverse=True) and bool(np.isfinite(scores).all())
