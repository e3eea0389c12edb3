"""The options of a memory service, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage.errors import InvalidRequest
from sage.service.memory_orchestrator.checks import check_name, check_ttl
from sage.service.memory_orchestrator.extraction import Generate


@dataclass(frozen=True)
class MemoryOptions:
    """:class:`MemoryOrchestratorService` says what each means. Raises :class:`InvalidRequest`."""

    kv_service_name: str | None
    vdb_service_name: str | None
    collection_name: str
    dimension: int | None
    persist_directory: str | None
    embedder: Any
    ttl_seconds: float | None
    max_size: int | None
    evict: str
    models: Any
    facts_model: str | None
    summary_model: str | None
    summary_after: int
    generate: Generate | None
    clock: Callable[[], float]
    max_search_results: int | None
    questions_model: str | None

    def __post_init__(self) -> None:
        check_name(self.collection_name, "collection_name")
        check_ttl(self.ttl_seconds)
        if self.persist_directory is not None and self.vdb_service_name is not None:
            raise InvalidRequest(
                f"the service '{self.vdb_service_name}' stores the memories; give 'persist_directory' to that service",
                param="persist_directory",
            )
        if self.max_size is not None:
            _check_whole_number(self.max_size, "max_size", 1)
        if self.max_search_results is not None:
            _check_whole_number(self.max_search_results, "max_search_results", 1)
        if self.evict not in ("oldest", "important"):
            raise InvalidRequest("'evict' must be 'oldest' or 'important'", param="evict")
        _check_whole_number(self.summary_after, "summary_after", 2)
        if (self.facts_model or self.summary_model or self.questions_model) and self.generate is None:
            raise InvalidRequest("a model is asked by 'generate': give that, too", param="generate")


def _check_whole_number(value: Any, param: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequest(f"'{param}' must be a whole number from {least}", param=param)
