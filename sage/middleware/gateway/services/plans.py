"""What the gateway's services are made with: each as its configuration says, in a directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.errors import ConfigError
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
    """What services of this process may use of the gateway; ``models`` is asked when one starts."""

    models: Callable[[], Models]
    generate: Generate
    """``generate(model, messages)`` gives the answer's text; on a thread."""


def service_class(name: str) -> type:
    """The class of the service ``name``; imports it."""
    from sage import service

    found: type = getattr(service, _CLASSES[name])
    return found


def hosting(name: str, settings: ServicesSettings) -> ServiceHosting:
    return {KV: settings.kv, VDB: settings.vdb, MEMORY: settings.memory}[name]


def make_environment(
    name: str, node: str, root: Path, settings: ServicesSettings, means: ServiceDependencies
) -> LocalEnvironment:
    """An environment with the service ``name`` alone, so that it starts and fails by itself; ready to start.

    ``node`` is this run of the gateway: on one cluster, two gateways have services of their own. ``root`` is the
    directory under which each service has one. Raises :class:`ConfigError` for what the runtime cannot do.
    """
    from sage.api.local_environment import LocalEnvironment

    place = root / name.removesuffix("_service")
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    ray = {"address": settings.ray.address} if settings.ray.address is not None else {}
    config = {"discovery": None, "grace": GRACE, "ray": ray}  # the gateway announces all of its services together
    environment = LocalEnvironment(f"{node}-{name}", config, platform=settings.runtime)
    hosted = hosting(name, settings)
    environment.register_service(
        name,
        service_class(name),
        **_options(name, place, settings, means),
        max_workers=hosted.max_workers,
        queue_size=hosted.queue_size,
        replicas=hosted.replicas,
        placement=hosted.placement,
    )
    return environment


def _options(name: str, place: Path, settings: ServicesSettings, means: ServiceDependencies) -> dict[str, Any]:
    if name == KV:
        kv = settings.kv
        return {
            "backend_type": kv.backend_type,
            "redis_url": kv.redis_url.get_secret_value() if kv.redis_url is not None else None,
            "max_size": kv.max_size,
            "ttl_seconds": kv.ttl_seconds,
            "persist_directory": str(place) if kv.backend_type == "sqlite" else None,
            "prefix": kv.prefix,
        }
    if name == VDB:
        vdb = settings.vdb
        return {
            "backend": vdb.backend,
            "url": vdb.url,
            "dimension": vdb.dimension,
            "distance_metric": vdb.distance_metric,
            "embedder": vdb.embedder,
            "persist_directory": str(place) if vdb.url is None else None,
            "models": _models(settings, "vdb", vdb.embedder, means),
        }
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
        "generate": _generate(settings, means),
        "persist_directory": str(place),
        "models": _models(settings, "memory", memory.embedder, means),
    }


def _generate(settings: ServicesSettings, means: ServiceDependencies) -> Generate | None:
    asked = settings.memory.facts_model or settings.memory.summary_model
    if asked is None:
        return None
    if settings.runtime == "ray":
        raise ConfigError(
            f"services.memory: under 'services.runtime: ray' the service cannot reach the gateway's model '{asked}'; "
            "leave facts_model and summary_model out, or use 'runtime: local'"
        )
    return means.generate


def _models(settings: ServicesSettings, section: str, embedder: str, means: ServiceDependencies) -> Models | None:
    """The registry's models, where the service runs in this process; a Ray actor cannot reach them."""
    if settings.runtime == "local":
        return means.models()
    from sage.middleware.retrieval.embedding.builtin import NAMES as BUILTIN_EMBEDDERS
    from sage.middleware.retrieval.embedding.builtin import is_builtin

    if not is_builtin(embedder):
        raise ConfigError(
            f"services.{section}.embedder: under 'services.runtime: ray' the service cannot reach the gateway's model "
            f"'{embedder}'; use one of {', '.join(BUILTIN_EMBEDDERS)}, or 'runtime: local'"
        )
    return None
