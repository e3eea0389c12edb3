"""The parts of a running memory service, put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sage.service.memory_orchestrator.clock import WriteClock
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.decomposition import QuestionSplitter
from sage.service.memory_orchestrator.duplicates import DuplicateFinder
from sage.service.memory_orchestrator.embedder import MemoryEmbedders
from sage.service.memory_orchestrator.expiry import ExpiryThread
from sage.service.memory_orchestrator.extraction import FactExtractor
from sage.service.memory_orchestrator.index.session_index import SessionIndex
from sage.service.memory_orchestrator.locks import ScopeLocks
from sage.service.memory_orchestrator.options import MemoryOptions
from sage.service.memory_orchestrator.query import MemoryQuery
from sage.service.memory_orchestrator.ranking import RecalledMemory, merged
from sage.service.memory_orchestrator.reader import MemoryReader
from sage.service.memory_orchestrator.recall import recall
from sage.service.memory_orchestrator.recently_recalled import RecentlyRecalled
from sage.service.memory_orchestrator.removal import MemoryRemover
from sage.service.memory_orchestrator.sessions import SessionCache
from sage.service.memory_orchestrator.writes import MemoryWriter


class MemoryEngine:
    """``vdb`` and ``kv`` are a vector and a key-value service, or proxies of them."""

    def __init__(self, vdb: Any, kv: Any, embedders: MemoryEmbedders, options: MemoryOptions) -> None:
        self.clock = WriteClock(options.clock)
        self.collection = MemoryCollection(vdb, options.collection_name)
        self.index = SessionIndex(kv, self.collection, options.collection_name)
        self.sessions = SessionCache(self.collection)
        self.reader = MemoryReader(self.collection, self.index, self.clock)
        self._embedders = embedders
        self._recalled = RecentlyRecalled(kv, options.collection_name)
        locks = ScopeLocks()
        self.remover = MemoryRemover(
            self.collection, self.reader, self.sessions, self.index, self._recalled, self.clock, locks,
            options.max_size, options.evict,
        )  # fmt: skip
        self.writer = MemoryWriter(
            self.collection, self.reader, DuplicateFinder(self.collection, self._recalled), self.sessions, self.index,
            embedders, self.remover, self.clock, locks,
        )  # fmt: skip
        self.extractor = FactExtractor(
            self.reader, self.writer, options.facts_model, options.summary_model, options.summary_after,
            options.generate,
        )  # fmt: skip
        self._splitter = QuestionSplitter(options.questions_model, options.generate)
        self.expiry = ExpiryThread(self.remover)

    def start(self) -> None:
        self.expiry.start()

    def stop(self) -> None:
        self.extractor.stop()
        self.expiry.stop()

    def search(self, query: MemoryQuery) -> list[RecalledMemory]:
        """Best first. The results count as recalled from then on."""
        now = self.clock.now()
        results = recall(self.collection, self._embedders, query, now)
        if query.decompose and query.text is not None:
            parts = [replace(query, text=part, vector=None) for part in self._splitter.parts(query.text)]
            of_parts = [recall(self.collection, self._embedders, part, now) for part in parts]
            results = merged([results, *of_parts], query.limit)
        self._recalled.add(query.scope, [result.record for result in results])
        return results

    def health(self) -> dict[str, Any]:
        return {
            "embedder": self._embedders.name,
            "sweep": self.expiry.state(),
            "derived": self.extractor.state(),
            "sessions": self.index.state(),
            "bytes_may_stay": self.collection.bytes_may_stay,
        }
