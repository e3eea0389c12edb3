"""Shards as services of an environment: threads of this process, or Ray actors on many machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from sage.errors import Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics
from sage.middleware.retrieval.types.documents import NewDocument, Row, StoredDocument, Written
from sage.middleware.settings.retrieval import CollectionOptions
from sage.service.vdb.sharded.shard import LocalShard, Shard


class ShardService(BaseServiceTask):
    """One shard of a :class:`sage.service.vdb.sharded.collection.ShardedCollection`, asked through calls.

    Durable at ``path``, on the disk of the machine that it runs on: one that died and is started again there has what
    it had. ``options`` are those of :class:`CollectionOptions`.
    """

    max_workers = 4

    def __init__(self, path: str | Path | None = None, **options: Any) -> None:
        self._path = path
        self._options = options
        self._shard: LocalShard | None = None

    def setup(self) -> None:
        self._shard = LocalShard(self._path, **self._options)

    def cleanup(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.close()

    def health(self) -> Mapping[str, Any]:
        return {"documents": self._running.count()}

    @property
    def _running(self) -> LocalShard:
        if self._shard is None:
            raise Unavailable("the shard is not running")
        return self._shard

    def collection_options(self) -> CollectionOptions:
        return self._running.collection_options()

    def settle(self, key: str, value: object) -> Any:
        return self._running.settle(key, value)

    def put(self, documents: Sequence[NewDocument], numbers: Sequence[int]) -> Written:
        return self._running.put(documents, numbers)

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        return self._running.delete(ids, filter)

    def get(self, id: str, vector: bool = False) -> StoredDocument:
        return self._running.get(id, vector)

    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        return self._running.count(filter)

    def numbers(self, filter: Mapping[str, Any] | None, after: int, limit: int) -> list[int]:
        return self._running.numbers(filter, after, limit)

    def statistics(self, terms: Sequence[str]) -> Statistics:
        return self._running.statistics(terms)

    def candidates(self, ask: CandidateRequest) -> Candidates:
        return self._running.candidates(ask)

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        return self._running.fetch(numbers)

    def purge(self, seconds: float) -> None:
        self._running.purge(seconds)

    def optimize(self) -> None:
        self._running.optimize()


class _Environment(Protocol):
    def register_service(self, name: str, service: Any, /, *args: Any, **kwargs: Any) -> Any: ...


def shard_names(name: str, count: int) -> list[str]:
    """What the services of a collection's shards are called."""
    return [f"{name}-shard-{place}" for place in range(count)]


def register_shards(
    environment: _Environment, name: str, count: int, path: str | Path | None = None, **options: Any
) -> list[str]:
    """Registers the ``count`` shards of the collection ``name``; returns the names of the services.

    ``path``: the directory under which each shard has one of its own; none: in memory. ``options``: those of
    :class:`CollectionOptions`, and of the environment's ``register_service`` (``placement``, ``max_workers``).
    """
    names = shard_names(name, count)
    for place, service in enumerate(names):
        where = None if path is None else str(Path(path) / f"{place}")
        environment.register_service(service, ShardService, path=where, **options)
    return names


def shards_of(call_service: Any, name: str, count: int, timeout: float = 60.0) -> list[Shard]:
    """The shards of a collection as a task of the environment calls them: for :class:`ShardedCollection`.

    ``timeout``: seconds of one call, after which the shard stops its work on it.
    """
    found = [call_service[service].options(timeout=timeout) for service in shard_names(name, count)]
    return [cast(Shard, proxy) for proxy in found]
