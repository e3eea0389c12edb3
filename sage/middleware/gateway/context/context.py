"""What is put before the model for one answer: sources of a search, memories of earlier conversations, or both."""

from __future__ import annotations

from typing import Any

from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.requests import SourcesRequest
from sage.middleware.gateway.context.chat_memory import MemoryRequest, Remembering, remember
from sage.middleware.gateway.context.prompts import as_words
from sage.middleware.gateway.context.sources import Source, add_sources
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import ModelCall
from sage.middleware.settings.retrieval import MAX_QUERY


class Context:
    """What was put before the model for one answer, and what is to be done with that."""

    def __init__(self, sources: list[Source] | None = None, remembering: Remembering | None = None) -> None:
        self.sources = sources
        self.remembering = remembering

    def shown(self) -> dict[str, Any]:
        """The fields of an answer that tell of it."""
        fields: dict[str, Any] = {}
        if self.sources is not None:
            fields["sources"] = self.sources
        if self.remembering is not None:
            fields["memories"] = self.remembering.memories
        return fields

    def warnings(self) -> dict[str, Any]:
        return {"warnings": self.remembering.warnings} if self.remembering and self.remembering.warnings else {}

    async def answered(self, text: str) -> None:
        """Call with the text of a whole answer, before it ends."""
        if self.remembering is not None:
            await self.remembering.store(text)


async def add_context(
    gateway: Gateway, principal: Principal, call: ModelCall, search: SourcesRequest | None, memory: MemoryRequest | None
) -> Context:
    """Puts into the messages of ``call`` what is asked for: memories, and sources. Raises as these do."""
    remembering = None
    if memory is not None:
        remembering = await remember(gateway, principal, call, memory, shared=search is not None)
        said = as_words(remembering.said[-MAX_QUERY:])
        if search is not None and search.query is None and said.strip():
            search = search.model_copy(update={"query": said})  # what the user said, not what is put before it
    sources = await add_sources(gateway, principal, call, search) if search is not None else None
    return Context(sources, remembering)
