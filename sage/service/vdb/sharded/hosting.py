"""Where the shards of one collection run: as services of an environment of its own."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.api.local_environment import LocalEnvironment
from sage.errors import SageError
from sage.middleware.settings.retrieval import CollectionOptions
from sage.service.vdb.sharded.shard import Shard
from sage.service.vdb.sharded.shard_service import register_shards, shard_names, shards_of

_NAME = "collection"
_GRACE = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardHosting:
    """How shards are hosted: ``platform`` is ``local`` (threads of this process) or ``ray`` (actors); ``ray`` as in
    :class:`sage.kernels.runtime.ray.cluster.RayCluster`; ``timeout`` in seconds of one call."""

    platform: str = "local"
    ray: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 60.0

    @property
    def joins_a_cluster(self) -> bool:
        """The shards may be on several machines."""
        return self.platform == "ray" and self.ray.get("address") is not None

    def environment(self, name: str) -> LocalEnvironment:
        config = {"discovery": None, "grace": _GRACE, "ray": dict(self.ray)}
        return LocalEnvironment(name, config, platform=self.platform)


def in_actor() -> bool:
    """Whether this process is an actor of Ray's: what a service that is one starts are actors, too."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


class ShardPlatform:
    """Keeps what shards run on from the first start to :meth:`stop`: a Ray that ends with the last shard would take
    seconds to start again, and ending it takes SIGTERM from the process. Safe to call from several threads."""

    def __init__(self, hosting: ShardHosting) -> None:
        self._hosting = hosting
        self._lock = threading.Lock()
        self._environment: LocalEnvironment | None = None

    def start(self) -> None:
        """Raises what the platform does when it cannot start."""
        with self._lock:
            if self._environment is None:
                environment = self._hosting.environment("shards")
                environment.start()
                self._environment = environment

    def stop(self) -> None:
        with self._lock:
            environment, self._environment = self._environment, None
        if environment is not None:
            environment.stop()


class RunningShards:
    """The shards of one collection while they run; ended by :meth:`stop` or :meth:`erase`."""

    def __init__(
        self,
        hosting: ShardHosting,
        path: Path,
        count: int,
        options: CollectionOptions,
        nodes: Sequence[str | None] | None = None,
    ) -> None:
        """Starts them. ``nodes`` are the machines that their files are on, as :attr:`nodes` was; ``None`` means that
        the shards are new. Raises :class:`sage.errors.Unavailable` when they cannot start."""
        self._path = path
        self._count = count
        self._environment = hosting.environment(path.name)
        register_shards(
            self._environment,
            _NAME,
            count,
            path,
            [_placement(node) for node in nodes or [None] * count],
            create=nodes is None,
            **options.model_dump(mode="json"),
        )
        self._environment.start()
        self._timeout = hosting.timeout
        self.nodes: list[str | None] = list(nodes) if nodes is not None else self._found_nodes(hosting)

    @property
    def shards(self) -> list[Shard]:
        return shards_of(self._environment.call_service, _NAME, self._count, self._timeout)

    def _found_nodes(self, hosting: ShardHosting) -> list[str | None]:
        """The machine of each shard, where there may be several: it is to run there for ever."""
        if not hosting.joins_a_cluster:
            return [None] * self._count
        call = self._environment.call_service
        return [call[name].node() for name in shard_names(_NAME, self._count)]

    def stop(self) -> None:
        self._environment.stop()

    def erase(self) -> None:
        """Ends them and deletes their files, on whatever machine they are."""
        for name in shard_names(_NAME, self._count):
            try:
                self._environment.call_service[name].erase()
            except SageError as exc:
                _log.warning("a shard of a deleted collection was not erased (%s): %s", self._path, exc.message)
        self.stop()
        shutil.rmtree(self._path, ignore_errors=True)


def _placement(node: str | None) -> dict[str, Any]:
    """Ray's options of an actor: on the machine ``node``, which Ray has a resource for, or spread over all."""
    if node is None:
        return {"scheduling_strategy": "SPREAD"}
    return {"resources": {f"node:{node}": 0.001}}
