"""How well a collection finds what was judged relevant: nDCG@10 on folders of judged queries."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.evaluation.ranking import DEPTH, ndcg
from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.embedding.builtin import builtin_embedder, kind_for
from sage.middleware.retrieval.embedding.protocols import Embedder


@dataclass(frozen=True, slots=True)
class Judged:
    """A folder of ``corpus.jsonl.gz``, ``queries.jsonl.gz`` and ``qrels.tsv.gz``, as BEIR lays them out."""

    name: str
    ids: list[str]
    texts: list[str]
    queries: dict[str, str]
    relevant: dict[str, dict[str, float]]


@dataclass(slots=True)
class Quality:
    """nDCG@10 by the way of searching, and what went wrong."""

    name: str
    documents: int
    queries: int
    ndcg: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def read(folder: Path) -> Judged:
    corpus = list(_lines(folder / "corpus.jsonl.gz"))
    relevant: dict[str, dict[str, float]] = {}
    with gzip.open(folder / "qrels.tsv.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            query, document, relevance = line.split()[0], *line.split()[-2:]
            if relevance.lstrip("-").isdigit():  # the first line may name the columns
                relevant.setdefault(query, {})[document] = float(relevance)
    return Judged(
        folder.name,
        [document["_id"] for document in corpus],
        [f"{document.get('title') or ''} {document['text']}".strip() for document in corpus],
        {query["_id"]: query["text"] for query in _lines(folder / "queries.jsonl.gz") if query["_id"] in relevant},
        relevant,
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def measure(judged: Judged, limit: int | None) -> tuple[Quality, NDArray[np.float32] | None]:
    """All modes and fusions with the default embedder, and the documents' vectors where there is one. ``limit``: only
    so many queries."""
    kind = kind_for(judged.texts)
    embedder = None if kind is None else builtin_embedder(kind.name)
    queries = dict(list(judged.queries.items())[:limit])
    quality = Quality(judged.name, len(judged.ids), len(queries))
    vectors = None if embedder is None else embedder.embed(judged.texts)
    with VectorStore(embedder=None if kind is None else kind.name) as store:
        for start in range(0, len(judged.ids), 1000):
            part = slice(start, start + 1000)
            given = None if vectors is None else vectors[part]
            store.add_documents(judged.texts[part], ids=judged.ids[part], vectors=given)
        for way, options in _ways(embedder).items():
            found = {query: _search(store, text, options, quality) for query, text in queries.items()}
            scores = [ndcg(found[query], judged.relevant[query]) for query in queries]
            quality.ndcg[way] = sum(scores) / len(scores)
    return quality, vectors


def _ways(embedder: Embedder | None) -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {"bm25": {"mode": "bm25"}}
    if embedder is not None:
        ways |= {"dense": {"mode": "dense"}, "hybrid": {}}
        ways |= {f"hybrid, {fusion}": {"fusion": fusion} for fusion in ("rrf", "dbsf", "zscore")}
    return ways


def _search(store: VectorStore, text: str, options: Mapping[str, Any], quality: Quality) -> list[str]:
    if not text.strip():
        return []  # one of CMRC2018's questions: refused by the store, and counted as nothing found
    results = store.search(text, top_k=DEPTH, **options)
    scores = [result.score for result in results]
    if scores != sorted(scores, reverse=True) or not all(map(math.isfinite, scores)):
        quality.failures.append(f"{quality.name}: scores out of order for {text!r} with {options}")
    ids = [result.id for result in results]
    if len(set(ids)) < len(ids):
        quality.failures.append(f"{quality.name}: a document stands twice for {text!r} with {options}")
    return ids
