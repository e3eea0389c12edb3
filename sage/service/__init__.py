"""Services that run as tasks: a key-value store, a vector database, and the memory of agents.

Each name is imported when it is first used, so that a program imports only the services that it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sage.api.upstream_names import warn_of_name

if TYPE_CHECKING:
    from sage.service.kv.kv_service import KVService, create_kv_service_factory
    from sage.service.memory_orchestrator.memory_service import (
        MemoryOrchestratorService,
        create_memory_service_factory,
    )
    from sage.service.vdb.vdb_service import VDBService, create_vdb_service_factory

__all__ = [
    "KVService",
    "MemoryOrchestratorService",
    "VDBService",
    "create_kv_service_factory",
    "create_memory_service_factory",
    "create_vdb_service_factory",
]

_HOMES = {
    "KVService": "sage.service.kv.kv_service",
    "create_kv_service_factory": "sage.service.kv.kv_service",
    "VDBService": "sage.service.vdb.vdb_service",
    "create_vdb_service_factory": "sage.service.vdb.vdb_service",
    "MemoryOrchestratorService": "sage.service.memory_orchestrator.memory_service",
    "create_memory_service_factory": "sage.service.memory_orchestrator.memory_service",
    "create_graph_service_factory": "sage.service.graph",
}


def __getattr__(name: str) -> Any:
    if name == "MemoryService":
        service = __getattr__(
            "MemoryOrchestratorService"
        )  # first: its imports make Python forget what it has warned of
        warn_of_name("sage.service.MemoryService", "from sage.service import MemoryOrchestratorService")
        return service
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
