"""Shards as services of an environment: threads of this process, or Ray actors on many machines."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sage.errors import Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.service.vdb.sharded.shard import LocalShard, Shard

_METHODS = tuple(name for name in vars(Shard) if not name.startswith("_"))


class ShardService(BaseServiceTask):
    """One shard of a :class:`sage.service.vdb.sharded.collection.ShardedCollection`: its methods are those of
    :class:`sage.service.vdb.sharded.shard.Shard`, asked through calls.

    Durable at ``path``, on the disk of the machine that it runs on: one that died and is started again there has what
    it had. Without ``create`` it does not start where there is no shard. ``options`` are those of
    :class:`CollectionOptions`.
    """

    max_workers = 4

    def __init__(self, path: str | Path | None = None, create: bool = True, **options: Any) -> None:
        self._path = path
        self._create = create
        self._options = options
        self._shard: LocalShard | None = None

    def setup(self) -> None:
        self._shard = LocalShard(self._path, create=self._create, **self._options)

    def cleanup(self) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.close()

    def health(self) -> Mapping[str, Any]:
        return {"documents": self._running.count()}

    def erase(self) -> None:
        """Ends it and deletes its files."""
        self.cleanup()
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)

    @property
    def _running(self) -> LocalShard:
        if self._shard is None:
            raise Unavailable("the shard is not running")
        return self._shard

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The methods of :class:`Shard`, which are set below."""


def _forwarded(name: str) -> Callable[..., Any]:
    def call(self: ShardService, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._running, name)(*args, **kwargs)

    call.__name__ = name
    call.__doc__ = getattr(Shard, name).__doc__
    return call


for _name in _METHODS:
    setattr(ShardService, _name, _forwarded(_name))


class _Environment(Protocol):
    def register_service(self, name: str, service: Any, /, *args: Any, **kwargs: Any) -> Any: ...


def shard_names(name: str, count: int) -> list[str]:
    """What the services of a collection's shards are called."""
    return [f"{name}-shard-{index}" for index in range(count)]


def register_shards(
    environment: _Environment,
    name: str,
    count: int,
    path: str | Path | None = None,
    placements: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[str]:
    """Registers the ``count`` shards of the collection ``name``; returns the names of the services.

    ``path`` is the directory under which each shard has one of its own; ``None`` means in memory. ``placements``: on
    Ray, the options of each shard's actor. ``options``: those of :class:`ShardService`, and of the environment's
    ``register_service`` (``placement``, ``max_workers``).
    """
    names = shard_names(name, count)
    for index, service in enumerate(names):
        directory = None if path is None else str(Path(path) / f"{index}")
        own = {} if placements is None else {"placement": placements[index]}
        environment.register_service(service, ShardService, path=directory, **options, **own)
    return names


def shards_of(call_service: Any, name: str, count: int, timeout: float = 60.0) -> list[Shard]:
    """The shards of a collection as a task of the environment calls them: for :class:`ShardedCollection`.

    ``timeout``: seconds of one call, after which the shard stops its work on it.
    """
    return [cast(Shard, call_service[service].options(timeout=timeout)) for service in shard_names(name, count)]
