"""What a request continues: the items before it, and those that it refers to by their ids."""

from __future__ import annotations

from typing import Any

from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.responses.kept import NewResponse
from sage.middleware.routers.openai.responses.events import Keep
from sage.middleware.routers.openai.responses.kept_items import kept_items
from sage.middleware.routers.openai.responses.request import ResponsesRequest


async def recall(gateway: Gateway, principal: Principal, request: ResponsesRequest) -> list[dict[str, Any]]:
    """The items before ``request``, whose references are items from now on. Raises :class:`sage.errors.NotFound` for a
    response, and :class:`sage.errors.InvalidRequest` for an item, that the caller's team has not kept."""
    tenant, previous, references = principal.tenant, request.previous_id, request.references
    earlier: list[dict[str, Any]] = []
    if previous is not None:
        earlier = await gateway.responses.run(lambda store: store.conversation(tenant, previous), tenant)
    if references:
        found = await gateway.responses.run(lambda store: store.find_items(tenant, references), tenant)
        request.resolve(found)
    return earlier


def keeper(gateway: Gateway, principal: Principal, request: ResponsesRequest) -> Keep | None:
    """What keeps the response to ``request``; ``None`` means that nothing of it is kept."""
    if not request.store:
        return None
    responses = gateway.responses.here()
    tenant, user = principal.tenant, principal.user

    async def keep(response: dict[str, Any]) -> None:
        new = NewResponse(tenant, user, response, kept_items(request.input, response["id"]))
        await responses.run(lambda store: store.add(new), tenant)

    return keep
