"""The settings of the gateway's own services: where they run, what they store, and bounds on one request."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration, Size, Text


class ServiceHosting(SettingsSection):
    """How one service is hosted."""

    max_workers: int = Field(4, ge=1, le=256)
    """Calls that it runs at the same time."""
    queue_size: int = Field(10_000, ge=1)
    """Calls that may wait for it; one more is refused with 503."""
    replicas: int = Field(1, ge=1)
    """On Ray, the actors that share its calls."""
    placement: dict[str, Any] = Field(default_factory=dict)
    """On Ray, the options of its actors (``num_cpus``, ``resources``, …)."""


class KVSettings(ServiceHosting):
    """The key-value service."""

    backend_type: Literal["memory", "sqlite", "redis"] = "sqlite"
    redis_url: SecretStr | None = None
    """May hold a password."""
    prefix: Text = "sage:kv:"
    """All its keys in Redis begin with this."""
    max_size: int | None = Field(None, ge=1)
    """The most entries; beyond it, those least used are removed. ``None`` means no bound."""
    ttl_seconds: Duration | None = None
    """How long an entry without a ``ttl`` of its own is stored; ``None`` means for ever."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.backend_type == "redis" and self.redis_url is None:
            raise ValueError("backend_type 'redis' needs 'redis_url', such as redis://localhost:6379/0")
        return self


class VDBSettings(ServiceHosting):
    """The vector service."""

    backend: Literal["retrieval", "chroma"] = "retrieval"
    url: Text | None = None
    """The address of a Chroma server; ``None`` means that Chroma runs in this process."""
    dimension: int | None = Field(None, ge=1, le=65536)
    """The dimension of new collections; ``None`` means that of the first vector."""
    distance_metric: Literal["cosine", "dot", "euclidean"] = "cosine"
    embedder: Text = "none"
    """Makes the vectors of texts; ``none`` means that the vectors come with the items."""
    shards: int = Field(0, ge=0, le=1024)
    """Over how many shards a new collection of the backend 'retrieval' is spread; 0 means one store."""


class MemorySettings(ServiceHosting):
    """The memory of agents."""

    embedder: Text = "auto"
    """Makes the vectors of memories, as for collections."""
    dimension: int | None = Field(None, ge=1, le=65536)
    ttl_seconds: Duration | None = None
    """How long a memory without a ``ttl`` of its own is stored; ``None`` means for ever."""
    max_size: int | None = Field(None, ge=1)
    """The most memories of one scope (tenant, user, agent); ``None`` means no bound."""
    evict: Literal["oldest", "important"] = "oldest"
    """Which memories are removed beyond ``max_size``: the oldest, or the least important."""
    facts_model: Text | None = None
    """A model that extracts facts from memories, in the background; ``None`` means that no model does."""
    summary_model: Text | None = None
    """A model that summarises old turns, in the background; ``None`` means that no model does."""
    summary_after: int = Field(50, ge=2)
    """The number of turns that are summarised together."""
    questions_model: Text | None = None
    """A model that parts questions into simpler ones, in searches with ``decompose``; ``None`` means that there is
    none."""
    recall_tokens: int = Field(1000, ge=100)
    """How much of a model's context the memories of one answer may take."""


class RaySettings(SettingsSection):
    """Where the services run with ``runtime: ray``."""

    address: Text | None = None
    """The address of a running cluster; ``None`` means that one is started on this machine."""


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
    """``on-demand`` means with the first request that needs one, ``eager`` with the gateway."""
    timeout: Duration = 30.0
    """Seconds that one call of a service may take; then 504."""
    discovery: SecretStr | None = None
    """Where services are announced: the path of a SQLite file, or ``redis://…``; ``None`` means one in ``data_dir``."""
    kv: KVSettings = Field(default_factory=KVSettings)
    vdb: VDBSettings = Field(default_factory=VDBSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    ray: RaySettings = Field(default_factory=RaySettings)
    limits: ServiceLimits = Field(default_factory=ServiceLimits)
