"""What can be said of the gateway's own services: where they run, what they keep, what one request may carry."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration, Size, Text


class ServiceHosting(SettingsSection):
    """How one service is hosted."""

    max_workers: int = Field(4, ge=1, le=256)
    """Calls that it works on at once."""
    queue_size: int = Field(10_000, ge=1)
    """Calls that may wait for it; one more is refused (503)."""
    replicas: int = Field(1, ge=1)
    """On Ray: actors that share its calls."""
    placement: dict[str, Any] = Field(default_factory=dict)
    """On Ray: options of its actors (``num_cpus``, ``resources``, …)."""


class KVSettings(ServiceHosting):
    """The key-value service."""

    backend_type: Literal["memory", "sqlite", "redis"] = "sqlite"
    redis_url: SecretStr | None = None
    """May hold a password."""
    prefix: Text = "sage:kv:"
    """``redis``: what all its keys begin with."""
    max_size: int | None = Field(None, ge=1)
    """Entries; those least used make room. None: no bound."""
    ttl_seconds: Duration | None = None
    """What an entry lives that was given no time of its own; none: for ever."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.backend_type == "redis" and self.redis_url is None:
            raise ValueError("backend_type 'redis' needs 'redis_url', such as redis://localhost:6379/0")
        return self


class VDBSettings(ServiceHosting):
    """The vector service."""

    backend: Literal["retrieval", "chroma"] = "retrieval"
    url: Text | None = None
    """``chroma``: a Chroma server; none: embedded."""
    dimension: int | None = Field(None, ge=1, le=65536)
    """Of the vectors of new collections; none: that of the first."""
    distance_metric: Literal["cosine", "dot", "euclidean"] = "cosine"
    embedder: Text = "none"
    """What makes vectors of texts; ``none``: vectors come with the items."""
    shards: int = Field(0, ge=0, le=1024)
    """Over how many shards a new collection of the backend 'retrieval' is spread; 0 means one store."""


class MemorySettings(ServiceHosting):
    """The memory of agents."""

    embedder: Text = "auto"
    """What makes vectors of memories: as for collections."""
    dimension: int | None = Field(None, ge=1, le=65536)
    ttl_seconds: Duration | None = None
    """What a memory lives that was given no time of its own; none: for ever."""
    max_size: int | None = Field(None, ge=1)
    """Memories of one scope (tenant, user, agent); none: no bound."""
    evict: Literal["oldest", "important"] = "oldest"
    """What is forgotten beyond ``max_size``: the oldest, or the least important."""
    facts_model: Text | None = None
    """A model that finds facts in what is stored, in the background; none: nothing asks a model."""
    summary_model: Text | None = None
    """A model that sums up old turns, in the background."""
    summary_after: int = Field(50, ge=2)
    """Turns that make a summary."""
    recall_tokens: int = Field(1000, ge=100)
    """How much of a model's context the memories of one answer may take."""


class RaySettings(SettingsSection):
    """Where the services run under ``runtime: ray``."""

    address: Text | None = None
    """Of a running cluster; none: one is started on this machine."""


class ServiceLimits(SettingsSection):
    """Bounds on what one request to a service may carry."""

    max_value: Size = 2**20
    """Bytes of one value as JSON, and of one memory's content."""
    max_items: int = Field(10_000, ge=1)
    """Items in one request to the vector service."""
    max_results: int = Field(1000, ge=1)
    """Results of one search, and entries of one page."""


class ServicesSettings(SettingsSection):
    """The gateway's key-value, vector and memory services."""

    runtime: Literal["local", "ray"] = "local"
    start: Literal["on-demand", "eager"] = "on-demand"
    """``on-demand``: with the first request that needs one; ``eager``: with the gateway."""
    timeout: Duration = 30.0
    """Of one call of a service, in seconds; then 504."""
    discovery: SecretStr | None = None
    """The board on which services are announced: the path of a SQLite file, or ``redis://…``; none: one in
    ``data_dir``."""
    kv: KVSettings = KVSettings()
    vdb: VDBSettings = VDBSettings()
    memory: MemorySettings = MemorySettings()
    ray: RaySettings = RaySettings()
    limits: ServiceLimits = ServiceLimits()
