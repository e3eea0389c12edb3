"""The old home of the integrated memory service: names that warn and lead to the new one."""

from __future__ import annotations

import warnings
from typing import Any

_NOW = {
    "MemoryService": "MemoryOrchestratorService",
    "MemoryOrchestratorService": "MemoryOrchestratorService",
    "create_memory_service_factory": "create_memory_service_factory",
}


def __getattr__(name: str) -> Any:
    if name not in _NOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"sage.service.memory.{name} is an old name; write: from sage.service import {_NOW[name]}",
        DeprecationWarning,
        stacklevel=2,
    )
    from sage.service.memory_orchestrator import memory_service

    return getattr(memory_service, _NOW[name])
