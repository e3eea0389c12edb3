"""The memory of agents as a service: what was said is stored once, found at once, corrected, and forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.errors import InvalidRequest, NotFound, Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, ServiceFactory
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.expiry import ExpiryThread
from sage.service.memory_orchestrator.export import Exported, read_lines, written_page
from sage.service.memory_orchestrator.extraction import FactExtractor, Generate
from sage.service.memory_orchestrator.inputs import MemoryInput
from sage.service.memory_orchestrator.recall import Question, recall
from sage.service.memory_orchestrator.recently_recalled import RecentlyRecalled
from sage.service.memory_orchestrator.records import (
    MemoryScope,
    check_content,
    check_metadata,
    check_name,
    check_ttl,
    check_vector,
)
from sage.service.memory_orchestrator.sessions import SessionCache
from sage.service.memory_orchestrator.vectors import Vectors
from sage.service.memory_orchestrator.writes import MemoryWriter

DEFAULT_TENANT = "default"
_MAX_PAGE = 1000


class MemoryOrchestratorService(BaseServiceTask):
    """Memories of sessions, each one item of a vector collection, so that it is there whole or not at all.

    A scope is a ``tenant``, a ``user``, an ``agent``: what is stored in one is found only in exactly that one;
    without a user (or agent) only what was stored without. A session belongs to its scope.

    The same text of one type twice in a session adds nothing and gives the first id, and so does, anywhere in the
    scope, a text that a search has just recalled. ``supersedes`` corrects: the old one stays, and is found by ``as_of``
    and :meth:`history` only. Every time is in Unix seconds. Search is hybrid: words over a turn and the two before it
    in its session, vectors over the turn; where the vectors lie in Chroma, vectors alone.
    """

    max_workers = 4

    def __init__(
        self,
        kv_service_name: str | None = None,
        vdb_service_name: str | None = None,
        collection_name: str = "memory",
        dimension: int | None = None,
        persist_directory: str | None = None,
        embedder: Any = "auto",
        ttl_seconds: float | None = None,
        max_size: int | None = None,
        evict: str = "oldest",
        models: Any = None,
        facts_model: str | None = None,
        summary_model: str | None = None,
        summary_after: int = 50,
        generate: Generate | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without names of services it has stores of its own, in ``persist_directory`` (none: in memory).

        ``ttl_seconds``: of memories that are given no ``ttl``. ``max_size``: memories of a scope, superseded ones
        counted; beyond it what was superseded is forgotten for good, then the ``oldest`` or the least ``important``
        (a fiftieth at a time). ``facts_model``, ``summary_model``: models that
        make facts of what was said and summaries of each ``summary_after`` turns, in the background, by
        ``generate(model, messages) -> str``. Raises :class:`InvalidRequest`.
        """
        check_name(collection_name, "collection_name")
        if persist_directory is not None and vdb_service_name is not None:
            raise InvalidRequest(
                f"memories lie where '{vdb_service_name}' keeps them; give 'persist_directory' to that service",
                param="persist_directory",
            )
        if max_size is not None and (isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1):
            raise InvalidRequest("'max_size' must be a whole number from 1", param="max_size")
        if evict not in ("oldest", "important"):
            raise InvalidRequest("'evict' must be 'oldest' or 'important'", param="evict")
        if isinstance(summary_after, bool) or not isinstance(summary_after, int) or summary_after < 2:
            raise InvalidRequest("'summary_after' must be a whole number from 2", param="summary_after")
        if (facts_model or summary_model) and generate is None:
            raise InvalidRequest("facts and summaries are made by a model: give 'generate', too", param="generate")
        self._kv_name = kv_service_name
        self._vdb_name = vdb_service_name
        self._collection = collection_name
        self._dimension = dimension
        self._directory = persist_directory
        self._embedder = embedder
        self._models = models
        self._ttl = check_ttl(ttl_seconds)
        self._max_size = max_size
        self._evict = evict
        self._deriving = (facts_model, summary_model, summary_after, generate)
        self._clock = clock
        self._own: list[Any] = []
        self._keeper: MemoryWriter | None = None

    def setup(self) -> None:
        self._vectors = Vectors(self._embedder, self._models)
        self._shelf = MemoryCollection(self._vdb(), self._collection)
        self._sessions = SessionCache(self._shelf)
        self._recalled = RecentlyRecalled(self._kv(), self._collection)
        keeper = MemoryWriter(
            self._shelf, self._sessions, self._vectors, self._recalled, self._clock, self._max_size, self._evict
        )
        self._sweeper = ExpiryThread(keeper, self._clock)
        self._deriver = FactExtractor(keeper, *self._deriving)
        self._keeper = keeper
        self._sweeper.start()

    def _vdb(self) -> Any:
        if self._vdb_name is not None:
            return self.call_service[self._vdb_name]
        from sage.service.vdb.vdb_service import VDBService

        return self._opened(
            VDBService(dimension=self._dimension, persist_directory=self._directory, models=self._models)
        )

    def _kv(self) -> Any:
        if self._kv_name is not None:
            return self.call_service[self._kv_name]
        from sage.service.kv.kv_service import KVService

        return self._opened(KVService(max_size=100_000))

    def _opened(self, service: Any) -> Any:
        service.__enter__()
        self._own.append(service)
        return service

    def cleanup(self) -> None:
        if self._keeper is not None:
            self._keeper = None
            self._deriver.stop()
            self._sweeper.stop()
        while self._own:
            self._own.pop().cleanup()

    def health(self) -> dict[str, Any]:
        self._running()
        return {
            "embedder": self._vectors.name,
            "sweep": self._sweeper.state(),
            "derived": self._deriver.state(),
            "bytes_may_stay": self._shelf.bytes_may_stay,
        }

    def _running(self) -> MemoryWriter:
        if self._keeper is None:
            raise Unavailable(
                "the memory service does not run; register it in an environment, or use it in a 'with' block",
                code="service_stopped",
                retry_after=None,
            )
        return self._keeper

    def _keep(self, scope: MemoryScope) -> MemoryWriter:
        keeper = self._running()
        self._sweeper.know(scope.tenant)
        return keeper

    def store_memory(
        self,
        session_id: str,
        content: str,
        vector: Sequence[float] | None = None,
        memory_type: str = "conversation",
        metadata: Mapping[str, Any] | None = None,
        ttl: float | None = None,
        *,
        supersedes: str | None = None,
        idempotency_key: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> str:
        """The memory's id; found by searches from then on. ``ttl`` in seconds. ``supersedes``: the id of the memory
        that this one corrects. The same ``idempotency_key`` again gives the same id, and
        :class:`sage.errors.Conflict` with another text."""
        said = MemoryInput(
            MemoryScope.of(tenant, user, agent),
            check_name(session_id, "session_id"),
            check_content(content),
            check_name(memory_type, "memory_type"),
            None if metadata is None else check_metadata(metadata),
            check_vector(vector),
            self._ttl if ttl is None else check_ttl(ttl),
            key="" if idempotency_key is None else check_name(idempotency_key, "idempotency_key"),
        )
        keeper = self._keep(said.scope)
        stored = keeper.store(said) if supersedes is None else keeper.correct(said, supersedes)
        if stored.new:
            self._deriver.stored(stored.record)
        return stored.record.id

    def search_memories(
        self,
        query: str | None = None,
        vector: Sequence[float] | None = None,
        session_id: str | None = None,
        memory_type: str | None = None,
        limit: int = 10,
        score_threshold: float | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        as_of: float | None = None,
        explain: bool = False,
        recency: float = 0.0,
        importance: float = 0.0,
        diversity: float = 0.0,
        rerank: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """``[{id, session_id, content, memory_type, metadata, score, created_at}]``, best first; higher is nearer.

        ``filter`` is over the memories' own metadata (the language of collections) and acts before the best are chosen.
        ``as_of``: as it was then. ``recency``, ``importance`` (of the metadata, 0 to 1) and ``diversity`` weigh 0 to 1;
        ``rerank`` names a model. ``explain`` adds the parts of the score.
        """
        scope = MemoryScope.of(tenant, user, agent)
        question = Question(
            scope, query, vector, session_id, memory_type, limit, score_threshold, filter, as_of, explain, recency,
            importance, diversity, rerank,
        )  # fmt: skip
        self._keep(scope)
        found = recall(self._shelf, self._vectors, question, self._running().now())
        self._recalled.note(scope, [one.record for one in found])
        return [one.shown(explain) for one in found]

    def get_memory(
        self, id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any]:
        """Also a superseded one. Raises :class:`NotFound`."""
        scope = MemoryScope.of(tenant, user, agent)
        return self._keep(scope).get(scope, id).shown()

    def update_memory(
        self,
        id: str,
        *,
        content: str,
        metadata: Mapping[str, Any] | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> str:
        """A correction in the same session, of the same type: the new one's id; the old one is kept."""
        scope = MemoryScope.of(tenant, user, agent)
        old = self._keep(scope).get(scope, id)
        return self.store_memory(
            old.session, content, None, old.type, old.metadata if metadata is None else metadata, supersedes=id,
            user=user, agent=agent, tenant=tenant,
        )  # fmt: skip

    def delete_memory(
        self,
        id: str,
        *,
        hard: bool = True,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> bool:
        """Whether it was there. ``hard``: it goes with all that it corrects and that corrects it, and with what was
        derived from them, and no byte of them stays in any file of ours (Chroma's it cannot erase); else it is only
        found no more, and :meth:`restore_memory` brings it back."""
        scope = MemoryScope.of(tenant, user, agent)
        return self._keep(scope).delete(scope, id, hard=hard)

    def get_session_memories(
        self,
        session_id: str,
        *,
        memory_type: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """In the order in which they were stored; ``cursor``: those after the memory of that id."""
        _check_page(limit)
        scope = MemoryScope.of(tenant, user, agent)
        records = self._keep(scope).session(scope, check_name(session_id, "session_id"))
        if cursor is not None:
            after = self._running().after(scope, session_id, cursor)
            records = [record for record in records if record.created > after]
        if memory_type is None:  # what was said, without what was derived from it
            return [record.shown() for record in records if not record.sources][:limit]
        return [record.shown() for record in records if record.type == memory_type][:limit]

    def get_session_metadata(
        self, session_id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any]:
        """``{session_id, memories, first_at, last_at, types}``. Raises :class:`NotFound`."""
        scope = MemoryScope.of(tenant, user, agent)
        records = self._keep(scope).session(scope, check_name(session_id, "session_id"))
        if not records:
            raise NotFound(f"there is no session '{session_id}'", param="session_id", code="session_not_found")
        kinds = sorted({record.type for record in records})
        return {
            "session_id": session_id,
            "memories": len(records),
            "first_at": records[0].created,
            "last_at": records[-1].created,
            "types": {kind: sum(record.type == kind for record in records) for kind in kinds},
        }

    def clear_session(
        self, session_id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> int:
        """Forgets a session for good; how many memories it had."""
        scope = MemoryScope.of(tenant, user, agent)
        return self._keep(scope).clear(scope, check_name(session_id, "session_id"))

    def list_sessions(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """``[{session_id, memories, first_at, last_at}]`` by name; ``after``: those that follow that one."""
        _check_page(limit)
        if after is not None:
            check_name(after, "after")
        scope = MemoryScope.of(tenant, user, agent)
        self._keep(scope)
        sessions = self._sessions.listed(scope, self._running().now())
        return [one for one in sessions if after is None or one["session_id"] > after][:limit]

    def history(
        self, id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> list[dict[str, Any]]:
        """A memory with all that it corrects and that corrects it, oldest first."""
        scope = MemoryScope.of(tenant, user, agent)
        return [record.shown() for record in self._keep(scope).history(scope, id)]

    def restore_memory(
        self, id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> str:
        """Makes what an old one says current again: the id of a new memory that corrects the last, or of this one when
        it was only deleted softly."""
        scope = MemoryScope.of(tenant, user, agent)
        return self._keep(scope).restore(scope, id)

    def export_memories(
        self, *, limit: int = 1000, cursor: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> Exported:
        """``{lines, cursor}``: memories of every scope of the tenant, whole, as lines of JSON; ``cursor`` is None at
        the end."""
        _check_page(limit)
        self._keep(MemoryScope(tenant))
        return written_page(self._shelf, tenant, limit, cursor)

    def import_memories(self, lines: Sequence[str], *, tenant: str = DEFAULT_TENANT) -> int:
        """Takes lines of :meth:`export_memories`, all or none; how many. One that is there is replaced."""
        records = read_lines(lines, tenant)
        return self._keep(MemoryScope(tenant)).take(tenant, records)


def create_memory_service_factory(**options: Any) -> ServiceFactory:
    """For ``env.register_service("memory_service", MemoryOrchestratorService, create_memory_service_factory(…))``: the
    keywords of :class:`MemoryOrchestratorService`; the services that it names start before it."""
    names = (options.get("kv_service_name"), options.get("vdb_service_name"))
    needs = tuple(name for name in names if name is not None)
    return ServiceFactory.checked(MemoryOrchestratorService, options, needs)


def _check_page(limit: Any) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MAX_PAGE:
        raise InvalidRequest(f"'limit' must be a whole number, 1 to {_MAX_PAGE}", param="limit")
