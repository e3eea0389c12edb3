"""One answer of a model as text, for threads: the memory service asks models in the background."""

from __future__ import annotations

import asyncio
import concurrent.futures

import orjson

from sage.errors import DeadlineExceeded, Unavailable, UpstreamFailed
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.collections.on_behalf import in_whose_name
from sage.middleware.gateway.model_caller import ModelCaller, RunningGateway
from sage.middleware.gateway.services.plans import Messages
from sage.middleware.gateway.watch import Watch
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.wire.messages import text_of

_WITHIN = 300.0
"""Seconds that one answer may take, with all that comes before it (a local model may have to be loaded)."""
_PRINCIPAL = Principal("memory service", "local", frozenset({Scope.GENERATE}))


def generate(running_gateway: RunningGateway, model: str, messages: Messages) -> str:
    """The text that ``model`` answers with, asked in the name of whom the thread acts for. Blocks; for a thread that
    runs no event loop. Raises what the call does."""
    gateway, loop = running_gateway()
    call = ModelCall(Operation.CHAT, {"model": model, "messages": messages}, model)
    principal = in_whose_name(_PRINCIPAL)
    call.request_id = principal.request_id
    answer = _ask(gateway, principal, call)
    try:
        future = asyncio.run_coroutine_threadsafe(answer, loop)
    except RuntimeError:  # the loop was closed in the meantime
        answer.close()
        raise Unavailable("the gateway was stopped while a memory waited for a model") from None
    try:
        return future.result(_WITHIN)
    except concurrent.futures.CancelledError:
        raise Unavailable("the gateway was stopped while a memory waited for a model") from None
    except TimeoutError:
        raise DeadlineExceeded(f"model '{model}' did not answer the memory service within {_WITHIN:g} s") from None
    finally:
        future.cancel()


async def _ask(gateway: ModelCaller, principal: Principal, call: ModelCall) -> str:
    with Watch(call, gateway.deadlines):
        async with gateway.call(principal, call) as answer:
            try:
                content = orjson.loads(answer.body)["choices"][0]["message"]["content"]
            except (ValueError, LookupError, TypeError):
                content = None
            if not isinstance(content, str | list):
                raise UpstreamFailed(f"model '{call.model}' answered with no text", code="upstream_nonsense")
            return text_of(content)
