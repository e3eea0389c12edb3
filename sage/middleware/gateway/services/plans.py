"""What each of the gateway's services is: its class, its settings, and an environment to run it in."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage import service
from sage.errors import ConfigError
from sage.kernels.runtime.service.base_service_task import methods_of
from sage.middleware.settings.services import ServiceHosting, ServicesSettings

if TYPE_CHECKING:
    from sage.api.local_environment import LocalEnvironment
    from sage.middleware.retrieval.embedding.protocols import Models

KV, VDB, MEMORY = "kv_service", "vdb_service", "memory_service"
NAMES = (KV, VDB, MEMORY)
_CLASSES = {KV: "KVService", VDB: "VDBService", MEMORY: "MemoryOrchestratorService"}
ENVIRONMENT = "gateway"
GRACE = 5.0
"""Seconds that calls may take to end when the gateway stops."""
Messages = list[dict[str, str]]
Generate = Callable[[str, Messages], str]


@dataclass(frozen=True)
class ServiceDependencies:
    """What the services of this process may use of the gateway."""

    models: Callable[[], Models]
    """Gives the embedders and rerankers; called when a service starts."""
    generate: Generate
    """``generate(model, messages)`` gives the answer's text. Blocks; for threads."""


def service_class(name: str) -> type:
    """The class of the service ``name``; imports it."""
    cls: type = getattr(service, _CLASSES[name])
    return cls


def hosting(name: str, settings: ServicesSettings) -> ServiceHosting:
    """The settings of the service ``name`` that every service has."""
    return {KV: settings.kv, VDB: settings.vdb, MEMORY: settings.memory}[name]


def outline(name: str, settings: ServicesSettings, state: str, error: str | None) -> dict[str, Any]:
    """The description of a service that does not answer for itself, in the shape in which its host describes it."""
    cls = service_class(name)
    return {
        "name": name,
        "class": cls.__name__,
        "host": f"{socket.gethostname()}:{os.getpid()}",
        "state": state,
        "replicas": hosting(name, settings).replicas,
        "methods": sorted(methods_of(cls)),
        "health": {"healthy": False} if state != "stopped" else {},
        "statistics": None,
        "error": error,
    }


def make_environment(
    name: str, node: str, root: Path, settings: ServicesSettings, dependencies: ServiceDependencies
) -> LocalEnvironment:
    """An environment with the service ``name`` alone, so that it starts and fails by itself; ready to start.

    ``node`` is this run of the gateway: on one cluster, two gateways have services of their own. ``root`` is the
    directory under which each service has one. Raises :class:`ConfigError` for what the runtime cannot do.
    """
    from sage.api.local_environment import LocalEnvironment  # brings the runtime, which start-up does without

    directory = root / name.removesuffix("_service")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ray = {"address": settings.ray.address} if settings.ray.address is not None else {}
    config = {"discovery": None, "grace": GRACE, "ray": ray}  # the gateway announces all of its services together
    environment = LocalEnvironment(f"{node}-{name}", config, platform=settings.runtime)
    hosted = hosting(name, settings)
    environment.register_service(
        name,
        service_class(name),
        **_OPTIONS[name](directory, settings, dependencies),
        max_workers=hosted.max_workers,
        queue_size=hosted.queue_size,
        replicas=hosted.replicas,
        placement=hosted.placement,
    )
    return environment


def _kv_options(directory: Path, settings: ServicesSettings, dependencies: ServiceDependencies) -> dict[str, Any]:
    kv = settings.kv
    return {
        "backend_type": kv.backend_type,
        "redis_url": kv.redis_url.get_secret_value() if kv.redis_url is not None else None,
        "max_size": kv.max_size,
        "ttl_seconds": kv.ttl_seconds,
        "persist_directory": str(directory) if kv.backend_type == "sqlite" else None,
        "prefix": kv.prefix,
    }


def _vdb_options(directory: Path, settings: ServicesSettings, dependencies: ServiceDependencies) -> dict[str, Any]:
    vdb = settings.vdb
    return {
        "backend": vdb.backend,
        "url": vdb.url,
        "dimension": vdb.dimension,
        "distance_metric": vdb.distance_metric,
        "embedder": vdb.embedder,
        "shards": vdb.shards,
        "persist_directory": str(directory) if vdb.url is None else None,
        "models": _models(settings, "vdb", vdb.embedder, dependencies),
    }


def _memory_options(directory: Path, settings: ServicesSettings, dependencies: ServiceDependencies) -> dict[str, Any]:
    memory = settings.memory
    return {
        "embedder": memory.embedder,
        "dimension": memory.dimension,
        "ttl_seconds": memory.ttl_seconds,
        "max_size": memory.max_size,
        "evict": memory.evict,
        "facts_model": memory.facts_model,
        "summary_model": memory.summary_model,
        "summary_after": memory.summary_after,
        "questions_model": memory.questions_model,
        "generate": _generate(settings, dependencies),
        "persist_directory": str(directory),
        "models": _models(settings, "memory", memory.embedder, dependencies),
    }


_OPTIONS = {KV: _kv_options, VDB: _vdb_options, MEMORY: _memory_options}


def _generate(settings: ServicesSettings, dependencies: ServiceDependencies) -> Generate | None:
    memory = settings.memory
    model = memory.facts_model or memory.summary_model or memory.questions_model
    if model is None:
        return None
    if settings.runtime == "ray":
        raise ConfigError(
            f"services.memory: under 'services.runtime: ray' the service cannot reach the gateway's model '{model}'; "
            "leave facts_model, summary_model and questions_model out, or use 'runtime: local'"
        )
    return dependencies.generate


def _models(
    settings: ServicesSettings, section: str, embedder: str, dependencies: ServiceDependencies
) -> Models | None:
    """The registry's models, where the service runs in this process; a Ray actor cannot reach them."""
    if settings.runtime == "local":
        return dependencies.models()
    # Here, since the package brings what only collections need.
    from sage.middleware.retrieval.embedding.builtin import NAMES as BUILTIN_EMBEDDERS
    from sage.middleware.retrieval.embedding.builtin import is_builtin

    if not is_builtin(embedder):
        raise ConfigError(
            f"services.{section}.embedder: under 'services.runtime: ray' the service cannot reach the gateway's model "
            f"'{embedder}'; use one of {', '.join(BUILTIN_EMBEDDERS)}, or 'runtime: local'"
        )
    return None
