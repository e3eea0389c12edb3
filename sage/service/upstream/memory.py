"""The options and methods that the memory service of upstream SAGE has under other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.kernels.runtime.old_names import NewName, warn_of_old_name

NO_GRAPH = "there is no graph service; facts that cite their memories are made with the option facts_model"
OLD_OPTIONS: Mapping[str, NewName] = {
    "default_vector_dimension": "dimension",
    "data_dir": "persist_directory",
    "enable_caching": None,
    "graph_service_name": None,
    "enable_knowledge_graph": None,
}
OLD_OPTION_HINTS = {
    "enable_caching": "what is derived from memories is always kept in the key-value service",
    "graph_service_name": NO_GRAPH,
    "enable_knowledge_graph": NO_GRAPH,
}


class OldMemoryMethods:
    """Part of a memory service. Each method calls the one of today, and warns."""

    def retrieve_memories(
        self: Any,
        query_vector: Sequence[float],
        session_id: str | None = None,
        memory_type: str | None = None,
        top_k: int = 10,
        **more: Any,
    ) -> list[dict[str, Any]]:
        """:meth:`search_memories` by vector."""
        _warn("retrieve_memories(query_vector, …, top_k)", "search_memories(vector=…, limit=…)")
        found: list[dict[str, Any]] = self.search_memories(
            None, query_vector, session_id, memory_type, limit=top_k, **more
        )
        return found

    def clear_session_memories(self: Any, session_id: str, **scope: Any) -> int:
        """:meth:`clear_session`."""
        _warn("clear_session_memories(session_id)", "clear_session(session_id)")
        return int(self.clear_session(session_id, **scope))


def _warn(old: str, new: str) -> None:
    warn_of_old_name(f"MemoryOrchestratorService.{old} is an old name; write {new}", 3)
