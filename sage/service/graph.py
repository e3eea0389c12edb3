"""Upstream SAGE's name of a graph service, which does not exist here."""

from __future__ import annotations

from typing import Any, NoReturn

from sage.errors import InvalidRequest


def create_graph_service_factory(*args: Any, **kwargs: Any) -> NoReturn:
    """Raises :class:`InvalidRequest`, which says what there is instead."""
    raise InvalidRequest(
        "there is no graph service: the memory service keeps facts that cite the memories they come from "
        "(create_memory_service_factory(facts_model=…)), and relations of your own are metadata that filters find"
    )
