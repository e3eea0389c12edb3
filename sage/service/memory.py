"""The old module of the memory service: its names give a warning and the classes of the new module."""

from __future__ import annotations

import warnings
from typing import Any

import sage.service

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
    return getattr(sage.service, _NOW[name])
