"""The memory of agents as a service: memories are stored once, found at once, corrected and removed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.errors import InvalidRequest, NotFound, Unavailable
from sage.kernels.runtime.old_names import takes_old_names, warn_of_old_name
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, Dependencies, ServiceFactory
from sage.service.kv.kv_service import KVService
from sage.service.memory_orchestrator.checks import (
    check_content,
    check_created_at,
    check_metadata,
    check_name,
    check_ttl,
    check_vector,
)
from sage.service.memory_orchestrator.embedder import MemoryEmbedders
from sage.service.memory_orchestrator.engine import MemoryEngine
from sage.service.memory_orchestrator.export import Exported, export_page, read_lines
from sage.service.memory_orchestrator.extraction import Generate
from sage.service.memory_orchestrator.inputs import MemoryInput
from sage.service.memory_orchestrator.options import MemoryOptions
from sage.service.memory_orchestrator.query import MemoryQuery, Period
from sage.service.memory_orchestrator.records import MemoryScope
from sage.service.upstream.factories import made_factory
from sage.service.upstream.memory import NO_GRAPH, OLD_OPTION_HINTS, OLD_OPTIONS, OldMemoryMethods
from sage.service.vdb.vdb_service import VDBService

DEFAULT_TENANT = "default"
_MAX_PAGE = 1000
_MAX_ENTRIES = 100_000
"""What a key-value store of its own holds: texts that were recalled, and what is known of sessions."""
KV_SERVICE, VDB_SERVICE = "kv_service", "vdb_service"
"""The services that it uses where they are registered and no others are named."""
_KV_METHODS = ("get", "put", "delete")
_VDB_METHODS = ("add", "count", "delete", "find", "groups", "list_by", "list_items", "purge", "revision", "search")
_NO_GRAPH = dict.fromkeys(("create_knowledge_graph", "include_graph_context"), NO_GRAPH)
_log = logging.getLogger(__name__)


class MemoryOrchestratorService(OldMemoryMethods, BaseServiceTask):
    """Memories of sessions. Each is one item of a vector collection, so that it is stored completely or not at all.

    A scope is a ``tenant``, with a ``user``, an ``agent``, both or neither. A memory is found only in exactly the scope
    in which it was stored. Sessions belong to their scope.

    Storing the same text of the same type again in a session adds nothing and gives the first id; so does storing,
    anywhere in the scope, a text that a search recalled within the last day. ``supersedes`` corrects a memory: the old
    one is kept, but found only by ``as_of`` and :meth:`history`. All times are in Unix seconds. Search is hybrid:
    keywords over a turn, its date and the two turns before it in its session, vectors over the turn alone; then what
    stands around it counts: the turn after it, its session, its speaker (``speaker`` or ``role`` of the metadata). With
    Chroma, search is by vectors alone.
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
        max_search_results: int | None = None,
        questions_model: str | None = None,
    ) -> None:
        """Memories go into the vector service ``vdb_service_name``, and what is derived from them into the key-value
        service ``kv_service_name``. ``None`` means the environment's ``vdb_service`` and ``kv_service`` where they are
        registered, else stores of its own, in memory. With a ``persist_directory`` its vector store is one of its own,
        there.

        ``ttl_seconds`` holds for memories that are stored without a ``ttl``. ``max_size`` bounds the memories of a
        scope, superseded ones included; beyond it superseded ones are removed for good, then the ``oldest`` or the
        least ``important`` (``evict``), a fiftieth of the bound at a time. A search returns
        ``max_search_results`` at most. ``facts_model`` and ``summary_model`` are
        models that make facts of memories and a summary of each ``summary_after`` turns, in the background;
        ``questions_model`` parts questions of searches with ``decompose``. They are asked by
        ``generate(model, messages) -> str``. Raises :class:`InvalidRequest`.
        """
        self._options = MemoryOptions(
            kv_service_name, vdb_service_name, collection_name, dimension, persist_directory, embedder, ttl_seconds,
            max_size, evict, models, facts_model, summary_model, summary_after, generate, clock, max_search_results,
            questions_model,
        )  # fmt: skip
        self._own_services: list[BaseServiceTask] = []
        self._engine: MemoryEngine | None = None
        self._names: tuple[str | None, ...] = (None, None)
        """Of the key-value and the vector service."""

    def _about(self) -> str:
        return f"collection '{self._options.collection_name}', {'running' if self._engine else 'not running'}"

    def setup(self) -> None:
        embedders = MemoryEmbedders(self._options.embedder, self._options.models)
        vdb, kv = self._vdb(), self._kv()
        self._names = tuple(getattr(service, "_name", None) for service in (kv, vdb))
        self._engine = MemoryEngine(vdb, kv, embedders, self._options)
        self._engine.start()

    @classmethod
    def _dependencies(cls, options: Mapping[str, Any]) -> Dependencies:
        kv, vdb = options.get("kv_service_name"), options.get("vdb_service_name")
        uses_kv = (KV_SERVICE,) if kv is None else ()
        uses_vdb = (VDB_SERVICE,) if vdb is None and options.get("persist_directory") is None else ()
        return Dependencies(tuple(name for name in (kv, vdb) if name is not None), uses_kv + uses_vdb)

    def _vdb(self) -> Any:
        options = self._options
        if options.vdb_service_name is not None:
            return self.call_service[options.vdb_service_name]
        if options.persist_directory is None and (registered := self._registered(VDB_SERVICE, _VDB_METHODS)):
            return registered
        return self._open(
            VDBService(
                dimension=options.dimension,
                persist_directory=options.persist_directory,
                models=options.models,
                vectors="mapped",
            )
        )

    def _kv(self) -> Any:
        if self._options.kv_service_name is not None:
            return self.call_service[self._options.kv_service_name]
        return self._registered(KV_SERVICE, _KV_METHODS) or self._open(KVService(max_size=_MAX_ENTRIES))

    def _registered(self, name: str, methods: Sequence[str]) -> Any:
        """The service of this name in the environment; ``None`` when it has none, or one that lacks ``methods``."""
        if self._callers is None or name not in self.call_service:
            return None
        service = self.call_service[name]
        if missing := [method for method in methods if not hasattr(service, method)]:
            _log.warning(
                "the memory service does not use the service '%s', which has no method %s, but a store of its own",
                name, ", ".join(missing),
            )  # fmt: skip
            return None
        return service

    def _open(self, service: BaseServiceTask) -> BaseServiceTask:
        service.__enter__()
        self._own_services.append(service)
        return service

    def cleanup(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()
        while self._own_services:
            self._own_services.pop().cleanup()

    def health(self) -> dict[str, Any]:
        return self._running().health()

    def _running(self) -> MemoryEngine:
        if self._engine is None:
            raise Unavailable(
                "the memory service is not running; register it in an environment, or use it in a 'with' block",
                code="service_stopped",
                retry_after=None,
            )
        return self._engine

    def _running_for(self, tenant: str) -> MemoryEngine:
        """The engine, which from now on removes what expires in ``tenant``."""
        engine = self._running()
        engine.expiry.watch(tenant)
        return engine

    @takes_old_names(_NO_GRAPH, create_knowledge_graph=None)
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
        created_at: float | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> str:
        """Stores a memory, which searches find from then on; its id.

        ``ttl`` is in seconds. ``supersedes`` is the id of the memory that this one corrects. The same
        ``idempotency_key`` again gives the same id; with another text it raises :class:`sage.errors.Conflict`.
        ``created_at`` (Unix seconds) is when it was said, for what is stored later than that: its place in the session,
        its date and ``as_of`` go by it. Turns for which the same time is given stay in the order in which they are
        stored. Not for a correction, which is made when it is stored.
        """
        engine = self._running_for(tenant)
        if created_at is not None and supersedes is not None:
            raise InvalidRequest("'created_at' is not for a memory that 'supersedes' another one", param="created_at")
        input = MemoryInput(
            MemoryScope.of(tenant, user, agent),
            check_name(session_id, "session_id"),
            check_content(content),
            check_name(memory_type, "memory_type"),
            None if metadata is None else check_metadata(metadata),
            check_vector(vector),
            self._options.ttl_seconds if ttl is None else check_ttl(ttl),
            key="" if idempotency_key is None else check_name(idempotency_key, "idempotency_key"),
            created=check_created_at(created_at, engine.clock.now()),
        )
        stored = engine.writer.store(input) if supersedes is None else engine.writer.correct(input, supersedes)
        if stored.is_new:
            engine.extractor.submit(stored.record)
        return stored.record.id

    @takes_old_names(_NO_GRAPH, query_vector="vector", top_k="limit", include_graph_context=None)
    def search_memories(
        self,
        query: str | Sequence[float] | None = None,
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
        decompose: bool = False,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """``[{id, session_id, content, memory_type, metadata, score, relevance, created_at}]``, best first; a higher
        score is better.

        The score orders the results of one question. ``relevance``, 0 (nothing in common) to 1 (the same), is made of
        meaning and matched words and can be compared between questions; ``score_threshold`` is its least value.

        ``filter`` is on the memories' own metadata, in the filter language of collections, and acts before the best
        are chosen. ``as_of`` (Unix seconds) searches the memories that were current then. ``recency``, ``importance``
        (``importance`` of the metadata, 0 to 1) and ``diversity`` are weights from 0 (off) to 1. ``rerank`` names a
        model. ``explain`` adds the parts of each score. ``decompose`` has the service's ``questions_model`` part the
        question into simpler ones, which are searched for, too: one call of that model, and up to four more searches.
        """
        if query is not None and not isinstance(query, str) and vector is None:
            warn_of_old_name("search_memories(query_vector) is upstream SAGE's; write search_memories(vector=…)", 3)
            query, vector = None, query
        if self._options.max_search_results is not None and isinstance(limit, int):
            limit = min(limit, self._options.max_search_results)
        question = MemoryQuery(
            MemoryScope.of(tenant, user, agent), query,  # type: ignore[arg-type]  # its check refuses other types
             vector, session_id, memory_type, limit, score_threshold,
            filter, as_of, explain, recency, importance, diversity, rerank, decompose,
        )  # fmt: skip
        results = self._running_for(tenant).search(question)
        return [result.to_dict(explain=explain) for result in results]

    @takes_old_names(memory_id="id")
    def get_memory(
        self, id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any] | None:
        """Also a superseded memory; ``None`` when there is none of this id in the scope."""
        scope = MemoryScope.of(tenant, user, agent)
        try:
            return self._running_for(tenant).reader.get(scope, id).to_dict()
        except NotFound:
            return None

    @takes_old_names(memory_id="id")
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
        """Corrects a memory in the same session and with the same type. The new memory's id; the old one is kept."""
        scope = MemoryScope.of(tenant, user, agent)
        old = self._running_for(tenant).reader.get(scope, id)
        return self.store_memory(
            old.session, content, None, old.type, old.metadata if metadata is None else metadata, supersedes=id,
            user=user, agent=agent, tenant=tenant,
        )  # fmt: skip

    @takes_old_names(memory_id="id")
    def delete_memory(
        self,
        id: str,
        *,
        hard: bool = True,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> bool:
        """``False`` means that it was not there (with ``hard=False``: that it was not current).

        With ``hard=True`` it is removed together with all that it corrects and that corrects it, and with what was
        derived from them, and none of our files holds a byte of them (Chroma's files cannot be erased). With
        ``hard=False`` it is only no longer found, and :meth:`restore_memory` brings it back.
        """
        scope = MemoryScope.of(tenant, user, agent)
        engine = self._running_for(tenant)
        return engine.remover.delete(scope, id) if hard else engine.writer.retire(scope, id)

    def get_session_memories(
        self,
        session_id: str,
        memory_type: str | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """The current memories of a session, in the order in which they were stored; with ``cursor``, the id of a
        memory, those after it; with ``start_time`` and ``end_time`` (Unix seconds), those stored from the one to the
        other. Facts and summaries are included only when ``memory_type`` asks for them."""
        _check_page(limit)
        period = Period.of(start_time, end_time)
        scope = MemoryScope.of(tenant, user, agent)
        reader = self._running_for(tenant).reader
        check_name(session_id, "session_id")
        after = None if cursor is None else reader.time_stored(scope, session_id, cursor)
        page = reader.session_page(scope, session_id, limit, memory_type, after, period)
        return [record.to_dict() for record in page]

    def get_session_metadata(
        self, session_id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any] | None:
        """``{session_id, memories, first_at, last_at, types}``; ``None`` when there is no such session."""
        scope = MemoryScope.of(tenant, user, agent)
        check_name(session_id, "session_id")
        return self._running_for(tenant).reader.session_summary(scope, session_id)

    def clear_session(
        self, session_id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> int:
        """Removes a session for good. The number of memories that it had, superseded ones included."""
        scope = MemoryScope.of(tenant, user, agent)
        return self._running_for(tenant).remover.clear(scope, check_name(session_id, "session_id"))

    def list_sessions(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        user: str | None = None,
        agent: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> list[dict[str, Any]]:
        """``[{session_id, memories, first_at, last_at}]`` by name; with ``after``, those whose names follow it."""
        _check_page(limit)
        if after is not None:
            check_name(after, "after")
        scope = MemoryScope.of(tenant, user, agent)
        return self._running_for(tenant).reader.session_summaries(scope, limit, after)

    def history(
        self, id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> list[dict[str, Any]]:
        """A memory, all that it corrects and all that corrects it, oldest first."""
        scope = MemoryScope.of(tenant, user, agent)
        return [record.to_dict() for record in self._running_for(tenant).reader.history(scope, id)]

    def restore_memory(
        self, id: str, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> str:
        """Makes the text of a superseded memory current again, in a new memory that corrects the last of its history.
        The id of the memory that has the text then; a memory that is current keeps its id."""
        scope = MemoryScope.of(tenant, user, agent)
        return self._running_for(tenant).writer.restore(scope, id)

    def stats(
        self, *, user: str | None = None, agent: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any]:
        """``{sessions, memories, kv_service_name, vdb_service_name, vector_dimension, max_search_results, …}`` of a
        scope, with what its host has counted. A store of its own has no name."""
        scope, engine = MemoryScope.of(tenant, user, agent), self._running_for(tenant)
        sessions = engine.index.sessions(scope, engine.clock.now())
        return {
            **self.get_statistics(),
            "sessions": len(sessions),
            "memories": sum(count for count, _, _ in sessions.values()),
            "kv_service_name": self._names[0],
            "vdb_service_name": self._names[1],
            "vector_dimension": self._options.dimension,
            "max_search_results": self._options.max_search_results,
        }

    def export_memories(
        self, *, limit: int = 1000, cursor: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> Exported:
        """``{lines, cursor}``: memories of every scope of the tenant with all that they have, as lines of JSON.
        ``cursor`` is that of the next page; ``None`` means that this is the last one."""
        _check_page(limit)
        return export_page(self._running_for(tenant).collection, tenant, limit, cursor)

    def import_memories(self, lines: Sequence[str], *, tenant: str = DEFAULT_TENANT) -> int:
        """Stores lines of :meth:`export_memories`, all or none; their number. Memories of the same ids are replaced.
        Raises :class:`InvalidRequest` that names the first bad line."""
        records = read_lines(lines, tenant)
        return self._running_for(tenant).writer.put_imported(tenant, records)


def create_memory_service_factory(service_name: str | None = None, **options: Any) -> ServiceFactory:
    """For ``env.register_service("memory_service", MemoryOrchestratorService, create_memory_service_factory(…))``.
    Takes the keywords of :class:`MemoryOrchestratorService`, and refuses what that class refuses; the services that
    they name start before it. The options of upstream SAGE (``service_name``, ``default_vector_dimension``,
    ``enable_caching``, ``graph_service_name``, ``enable_knowledge_graph``) give a deprecation warning."""
    return made_factory(MemoryOrchestratorService, service_name, options, OLD_OPTIONS, OLD_OPTION_HINTS)


def _check_page(limit: Any) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MAX_PAGE:
        raise InvalidRequest(f"'limit' must be a whole number, 1 to {_MAX_PAGE}", param="limit")
