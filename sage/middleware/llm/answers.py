"""Answers of models as Python objects, made on the gateway's event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import LOCAL
from sage.middleware.gateway.context.chat_memory import Memory
from sage.middleware.gateway.context.context import Context, add_context
from sage.middleware.gateway.context.generate_request import parse_generate
from sage.middleware.gateway.context.sources import Source
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.watch import Watch
from sage.middleware.providers.base import ModelCall
from sage.middleware.routers.generate import TextStream, complete_answer


@dataclass(frozen=True, repr=False)
class Generation:
    """A complete answer.

    ``usage`` has ``prompt_tokens``, ``completion_tokens`` and ``total_tokens``; ``None`` means that the provider did
    not tell it. With ``search``, ``sources`` lists the documents that the model got (``{number, id, collection, text,
    metadata, score}``); with ``memory``, ``memories`` lists the memories that it got. ``warnings`` say why a turn was
    not stored. ``refusal`` is the text again where a model refuses, and ``tool_calls`` are those that it made, in
    OpenAI's shape. ``str()`` of it is its text.
    """

    id: str
    model: str
    text: str
    finish_reason: str | None
    usage: dict[str, int] | None
    provider: str
    sources: list[Source] | None = None
    memories: list[Memory] | None = None
    warnings: list[str] | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        """All that it has, without what is ``None``."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return f"Generation({', '.join(f'{name}={value!r}' for name, value in values if value is not None)})"


def request_body(
    model: str,
    prompt: str | None,
    messages: Sequence[dict[str, Any]] | None,
    parameters: dict[str, Any],
    *,
    stream: bool = False,
) -> dict[str, Any]:
    """The body of ``POST /generate`` that the arguments of a Python call stand for."""
    if "stream" in parameters:
        raise InvalidRequest("'stream' is not a parameter here: call stream() or generate()", param="stream")
    body: dict[str, Any] = {"model": model, **parameters}
    if stream:
        body["stream"] = True
    if prompt is not None:
        body["prompt"] = prompt
    if messages is not None:
        body["messages"] = list(messages)
    return body


async def generate(gateway: Gateway, body: dict[str, Any]) -> Generation:
    """The answer to a request with this body."""
    call, context = await _call_with_context(gateway, body)
    with Watch(call, gateway.deadlines):
        async with gateway.call(LOCAL, call) as answer:
            complete = complete_answer(answer, context)
            await context.store_turn(complete["text"], complete.get("tool_calls"))
            return Generation(**complete, **context.warnings())


async def stream(gateway: Gateway, body: dict[str, Any]) -> AsyncGenerator[str, None]:
    """The text of the answer to a request with this body, in parts."""
    call, context = await _call_with_context(gateway, body)
    async with gateway.call(LOCAL, call) as answer:
        stream, events = TextStream(context), answer.body
        while events:
            for text in stream.texts(events):
                yield text
            if answer.finished:
                await stream.store_turn()
                await answer.drain()
                return
            events = await answer.more()
        await stream.store_turn()


async def _call_with_context(gateway: Gateway, body: dict[str, Any]) -> tuple[ModelCall, Context]:
    """The call, with the context that ``search`` and ``memory`` add to it."""
    request = parse_generate(body)
    call = request.call()
    return call, await add_context(gateway, LOCAL, call, request.search, request.memory)
