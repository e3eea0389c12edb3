"""The same documents and queries in other engines, where they are installed; in this process, one thread."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from retrieval_made import Asked, Made, Nearest
from retrieval_speed import TOP, Figures

_SLOW = 20
"""Queries that an engine is asked which needs a tenth of a second for each."""
_BATCH = 1000


def peers(made: Made, queries: int) -> Iterator[Figures]:
    """Figures of every engine that is installed."""
    engines: dict[str, Callable[[Made, list[Asked], Figures], None]] = {
        "rank_bm25": _rank_bm25,
        "bm25s": _bm25s,
        "tantivy": _tantivy,
        "chromadb": _chroma,
        "qdrant_client": _qdrant,
    }
    asked = made.asked(queries)
    for package, measure in engines.items():
        if importlib.util.find_spec(package) is not None:
            figures = Figures(package, made.size)
            measure(made, asked, figures)
            yield figures


def _documents(made: Made) -> list[list[str]]:
    return [words for chunk in made.chunks() for words in chunk.words]


def _took_in(figures: Figures, start: float) -> None:
    figures.values["ingest docs/s of CPU"] = figures.size / (time.process_time() - start)


def _rank_bm25(made: Made, asked: list[Asked], figures: Figures) -> None:
    import rank_bm25

    documents = _documents(made)
    start = time.process_time()
    engine = rank_bm25.BM25Okapi(documents)
    _took_in(figures, start)

    def top(each: Asked) -> list[int]:
        scores = engine.get_scores(each.words)
        best = np.argpartition(-scores, TOP)[:TOP]
        return [int(place) for place in best[np.argsort(-scores[best])]]

    for each, found in zip(asked[:_SLOW], figures.timed("keywords", asked[:_SLOW], top), strict=True):
        figures.check(bool(set(each.words) & set(documents[found[0]])), f"{each.words}: the best holds no word")


def _bm25s(made: Made, asked: list[Asked], figures: Figures) -> None:
    import bm25s

    documents = _documents(made)
    backend = "numba" if importlib.util.find_spec("numba") is not None else "numpy"
    start = time.process_time()
    engine = bm25s.BM25(backend=backend)
    engine.index(documents, show_progress=False)
    _took_in(figures, start)

    def top(each: Asked) -> int:
        found, _ = engine.retrieve([each.words], k=TOP, show_progress=False)
        return int(found[0, 0])

    for each, best in zip(asked, figures.timed("keywords", asked, top), strict=True):
        figures.check(bool(set(each.words) & set(documents[best])), f"{each.words}: the best holds no word")


def _tantivy(made: Made, asked: list[Asked], figures: Figures) -> None:
    import tantivy

    schema = tantivy.SchemaBuilder().add_text_field("text", stored=True, tokenizer_name="whitespace").build()
    index = tantivy.Index(schema)
    start = time.process_time()
    writer = index.writer(num_threads=1)
    for chunk in made.chunks():
        for text in chunk.texts:
            writer.add_document(tantivy.Document(text=[text]))
    writer.commit()
    writer.wait_merging_threads()
    _took_in(figures, start)
    index.reload()
    searcher = index.searcher()

    def top(each: Asked) -> Any:
        return searcher.search(index.parse_query(" ".join(each.words), ["text"]), TOP)

    for each, found in zip(asked, figures.timed("keywords", asked, top), strict=True):
        text = searcher.doc(found.hits[0][1])["text"][0] if found.hits else ""
        figures.check(bool(set(each.words) & set(text.split())), f"{each.words}: the best holds no word")


def _chroma(made: Made, asked: list[Asked], figures: Figures) -> None:
    import chromadb

    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    collection = client.create_collection(f"made-{made.size}", metadata={"hnsw:space": "cosine"})
    nearest, spent = Nearest(asked, TOP), 0.0
    for chunk in made.chunks():
        nearest.pass_by(chunk)
        ids, texts = chunk.ids, chunk.texts
        start = time.process_time()
        for begin in range(0, len(ids), _BATCH):
            part = slice(begin, begin + _BATCH)
            collection.add(
                ids=ids[part],
                documents=texts[part],
                embeddings=chunk.vectors[part],
                metadatas=[{"bucket": bucket} for bucket in chunk.buckets[part].tolist()],
            )
        spent += time.process_time() - start
    figures.values["ingest docs/s of CPU"] = made.size / spent

    def top(each: Asked, where: dict[str, Any] | None = None) -> set[str]:
        return set(collection.query(query_embeddings=[each.vector], n_results=TOP, where=where)["ids"][0])

    _recall(figures, figures.timed("vectors", asked, top), nearest)
    figures.timed("vectors, filter keeps 10 %", asked[:_SLOW], lambda each: top(each, {"bucket": {"$lt": 10}}))
    client.delete_collection(f"made-{made.size}")


def _qdrant(made: Made, asked: list[Asked], figures: Figures) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection("made", models.VectorParams(size=made.dimension, distance=models.Distance.COSINE))
    nearest, spent = Nearest(asked, TOP), 0.0
    for chunk in made.chunks():
        nearest.pass_by(chunk)
        start = time.process_time()
        payloads = [
            {"text": text, "bucket": bucket} for text, bucket in zip(chunk.texts, chunk.buckets.tolist(), strict=True)
        ]
        places = list(range(chunk.first, chunk.first + len(payloads)))
        client.upsert("made", models.Batch(ids=places, vectors=chunk.vectors.tolist(), payloads=payloads))
        spent += time.process_time() - start
    figures.values["ingest docs/s of CPU"] = made.size / spent

    def top(each: Asked, kept: Any = None) -> set[str]:
        found = client.query_points("made", each.vector.tolist(), limit=TOP, query_filter=kept)
        return {f"d{point.id}" for point in found.points}

    _recall(figures, figures.timed("vectors", asked[:_SLOW], top), nearest)
    tenth = models.Filter(must=[models.FieldCondition(key="bucket", range=models.Range(lt=10))])
    figures.timed("vectors, filter keeps 10 %", asked[:_SLOW], lambda each: top(each, tenth))
    client.close()


def _recall(figures: Figures, found: list[set[str]], nearest: Nearest) -> None:
    shares = [len(ids & true) / len(true) for ids, true in zip(found, nearest.ids(), strict=False)]
    figures.values["recall@10"] = sum(shares) / len(shares)
    figures.check(all(len(ids) == TOP for ids in found), "too few results")
