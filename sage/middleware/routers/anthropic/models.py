"""``/v1/models`` as Anthropic's clients read it, which send ``anthropic-version``.

Source: Anthropic's API reference, *Models*.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel

from sage.errors import InvalidRequest
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.routers.anthropic.credentials import take_api_key
from sage.middleware.routers.anthropic.errors import VERSION
from sage.middleware.routers.http.asgi import FIELDS
from sage.middleware.routers.http.guard import GuardedRoute

_USUAL, _MOST = 20, 1000
_UNKNOWN = "1970-01-01T00:00:00Z"
"""Anthropic's own word for a model whose release date nobody knows."""


class AnthropicModel(BaseModel):
    """A model in Anthropic's list."""

    id: str
    type: Literal["model"] = "model"
    display_name: str
    created_at: str = _UNKNOWN
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None = None
    max_tokens: int | None = None


class AnthropicModelPage(BaseModel):
    """One page of Anthropic's list: the models that the caller may use."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ModelsRoute(GuardedRoute):
    """A route for clients of OpenAI's and of Anthropic's, which may send their key in ``x-api-key``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_api_key(request: Request) -> Response:
            if not wants_anthropic(request):
                return await handle(request)
            take_api_key(request.scope)
            response = await handle(request)
            response.headers["request-id"] = request.scope["state"]["request_id"].decode()
            return response

        return with_api_key


def wants_anthropic(request: Request) -> bool:
    """Whether it comes from one of Anthropic's clients."""
    return VERSION in request.scope[FIELDS]


def card(model: PublicModel, name: str) -> AnthropicModel:
    """``model`` under its public name. Its context is the smallest of those of its deployments that are known."""
    contexts = [each.provider.context(each.model) for each in model.deployments]
    known = [context for context in contexts if context is not None]
    return AnthropicModel(id=name, display_name=name, max_input_tokens=min(known, default=None))


def page(
    models: Sequence[PublicModel], limit: int | None, after_id: str | None, before_id: str | None
) -> AnthropicModelPage:
    """A page of ``limit`` models, those after one or before one. Raises :class:`InvalidRequest` for a bad cursor."""
    limit = _USUAL if limit is None else limit
    if not 1 <= limit <= _MOST:
        raise InvalidRequest(f"'limit' must be from 1 to {_MOST}, not {limit}", param="limit")
    if after_id is not None and before_id is not None:
        raise InvalidRequest("give 'after_id' or 'before_id', not both", param="before_id")
    begin, end = 0, len(models)
    if after_id is not None:
        begin = _place(models, "after_id", after_id) + 1
    if before_id is not None:
        end = _place(models, "before_id", before_id)
        shown = models[max(0, end - limit) : end]
        has_more = end > limit
    else:
        shown = models[begin : begin + limit]
        has_more = end > begin + limit
    cards = [card(model, model.name) for model in shown]
    first, last = (cards[0].id, cards[-1].id) if cards else (None, None)
    return AnthropicModelPage(data=cards, has_more=has_more, first_id=first, last_id=last)


def _place(models: Sequence[PublicModel], field: str, name: str) -> int:
    for place, model in enumerate(models):
        if model.name == name:
            return place
    raise InvalidRequest(f"'{field}' names no model that this credential reaches", param=field)
