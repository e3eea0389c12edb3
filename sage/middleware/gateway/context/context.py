"""What is put before the model for one answer: sources of a search, memories of earlier conversations, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.requests import SourcesRequest
from sage.middleware.gateway.context.chat_memory import ChatMemory, MemoryRequest, add_memories
from sage.middleware.gateway.context.prompts import query_of
from sage.middleware.gateway.context.sources import SourcesFound, add_sources
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import ModelCall


class Context:
    """The sources and memories of one answer; ``None`` means that the request has not asked for them."""

    def __init__(self, sources: SourcesFound | None = None, memory: ChatMemory | None = None) -> None:
        self.sources = sources
        self.memory = memory

    def fields(self) -> dict[str, Any]:
        """The fields of an answer that show what the model was given."""
        fields: dict[str, Any] = {}
        if self.sources is not None:
            fields["sources"] = self.sources.sources
        if self.memory is not None:
            fields["memories"] = self.memory.memories
        return fields

    def warnings(self) -> dict[str, Any]:
        """The field of an answer that tells what did not work; nothing if all did."""
        warnings = [
            *(self.sources.warnings if self.sources is not None else ()),
            *(self.memory.warnings if self.memory is not None else ()),
        ]
        return {"warnings": warnings} if warnings else {}

    async def store_turn(self, answer: str, calls: Sequence[object] | None = None) -> None:
        """Stores the turn in memory, if the request has a memory; to be called with a complete ``answer``. One that
        has ``calls`` of the caller's tools does not end its turn: the answer to their results does."""
        if self.memory is not None and not calls:
            await self.memory.store(answer)


async def add_context(
    gateway: Gateway, principal: Principal, call: ModelCall, search: SourcesRequest | None, memory: MemoryRequest | None
) -> Context:
    """Puts memories and sources into the messages of ``call``, as far as the request asks for them.

    Raises as :func:`add_memories` and :func:`add_sources` do.
    """
    chat_memory = None
    if memory is not None:
        chat_memory = await add_memories(gateway, principal, call, memory, share_room=search is not None)
        question = query_of(chat_memory.question)
        if search is not None and search.query is None and question:
            search = search.model_copy(  # without the memories that now stand before it
                update={"query": question, "syntax": search.syntax or "plain"}
            )
    sources = await add_sources(gateway, principal, call, search) if search is not None else None
    return Context(sources, chat_memory)
