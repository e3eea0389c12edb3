"""Where the shards of one collection run: as services of an environment of its own."""

from __future__ import annotations

import logging
import secrets
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage.api.local_environment import LocalEnvironment
from sage.errors import SageError
from sage.kernels.runtime.ray.package import load_ray
from sage.middleware.settings.retrieval import CollectionOptions
from sage.service.vdb.sharded.shard import Shard
from sage.service.vdb.sharded.shard_service import register_shards, shard_names, shards_of

_NAME = "collection"
_GRACE = 5.0
_ERASE_WITHIN = 10.0
"""Seconds that a shard has to delete its files; its machine may be gone."""
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
        self, hosting: ShardHosting, path: Path, nodes: Sequence[str | None], options: CollectionOptions, create: bool
    ) -> None:
        """Starts one on each of the machines ``nodes`` (see :func:`choose_nodes`), with its files under ``path`` there.
        ``create``: they are new. Raises :class:`sage.errors.Unavailable` when they cannot start."""
        self._path = path
        self._count = len(nodes)
        self._timeout = hosting.timeout
        self._environment = hosting.environment(path.name)
        placements = [_placement(node) for node in nodes]
        given = options.model_dump(mode="json")
        register_shards(self._environment, _NAME, self._count, path, placements, create=create, **given)
        self._environment.start()

    @property
    def shards(self) -> list[Shard]:
        return shards_of(self._environment.call_service, _NAME, self._count, self._timeout)

    def stop(self) -> None:
        self._environment.stop()

    def erase(self) -> None:
        """Ends them and deletes their files, on whatever machine they are."""
        for name in shard_names(_NAME, self._count):
            try:
                self._environment.call_service[name].options(timeout=_ERASE_WITHIN).erase()
            except SageError as exc:
                _log.warning("a shard of a deleted collection was not erased (%s): %s", self._path, exc.message)
        self.stop()
        shutil.rmtree(self._path, ignore_errors=True)


def choose_nodes(hosting: ShardHosting, count: int) -> list[str | None]:
    """A machine for each new shard, in turns: its files stay there, and so does it. ``None`` where there is only this
    one. The platform must have started."""
    if not hosting.joins_a_cluster:
        return [None] * count
    nodes = sorted({str(node["NodeManagerAddress"]) for node in load_ray().nodes() if node["Alive"]})
    first = secrets.randbelow(len(nodes))
    return [nodes[(first + index) % len(nodes)] for index in range(count)]


def _placement(node: str | None) -> dict[str, Any]:
    """Ray's options of an actor: on the machine ``node``, for which Ray has a resource."""
    return {} if node is None else {"resources": {f"node:{node}": 0.001}}
