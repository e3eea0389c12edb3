"""OpenAI's routes of responses that are kept: ``GET``, ``DELETE``, ``/input_items`` and ``/cancel``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response, StreamingResponse

from sage.errors import Conflict
from sage.middleware.auth.principal import Scope
from sage.middleware.routers.http.deps import Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, requires
from sage.middleware.routers.items import reply
from sage.middleware.routers.openai.responses import background
from sage.middleware.routers.openai.responses.request import SEARCH_RESULTS

router = guarded_router("OpenAI")

_MOST_LISTED = 100


class ResponseObject(BaseModel):
    """A response, in OpenAI's shape."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"] = "response"
    status: str
    model: str
    output: list[dict[str, Any]]


class DeletedResponse(BaseModel):
    """That a response is deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItems(BaseModel):
    """Some items of the input of a response, and whether there are more."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.get("/v1/responses/{response_id}", name="responses_get", response_model=ResponseObject)
@requires(Scope.GENERATE)
async def get_response(
    response_id: str,
    who: Caller,
    gateway: TheGateway,
    include: Annotated[list[str] | None, Query()] = None,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=-1)] = -1,
) -> Response:
    """A response that was kept, by anyone in the caller's team. With `stream` the events of one in the background that
    come after the number `starting_after`, also those that are still to come."""
    responses = gateway.responses
    kept = await background.current(responses, who.tenant, response_id)
    if stream:
        if not kept.body.get("background"):
            raise Conflict(f"'{response_id}' was not made in the background, so its events are not kept")
        events = background.follow(responses, who.tenant, response_id, starting_after)
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
    return reply(shown(kept.body, include or ()))


@router.delete("/v1/responses/{response_id}", name="responses_delete", response_model=DeletedResponse)
@requires(Scope.GENERATE)
async def delete_response(response_id: str, who: Caller, gateway: TheGateway) -> Response:
    """Deletes a response, with its input. Responses that continue it cannot be continued any more."""
    responses = gateway.responses
    kept = await responses.run(lambda store: store.get(who.tenant, response_id), who.tenant)
    await responses.run(lambda store: store.delete(who.tenant, response_id), who.tenant)
    if kept.job is not None and responses.background is not None:
        await responses.background.forget(who.tenant, kept.job)
    return reply({"id": response_id, "object": "response", "deleted": True})


@router.get("/v1/responses/{response_id}/input_items", name="responses_input_items", response_model=InputItems)
@requires(Scope.GENERATE)
async def list_input_items(
    response_id: str,
    who: Caller,
    gateway: TheGateway,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """The items of a response's own input. `after` is the id of the last one of the page before."""
    page, has_more = await gateway.responses.run(
        lambda store: store.input_page(who.tenant, response_id, limit=limit, after=after, oldest_first=order == "asc"),
        who.tenant,
    )
    ids = [item["id"] for item in page] or [None]
    return reply({"object": "list", "data": page, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more})


@router.post("/v1/responses/{response_id}/cancel", name="responses_cancel", response_model=ResponseObject)
@requires(Scope.GENERATE)
async def cancel_response(response_id: str, who: Caller, gateway: TheGateway) -> Response:
    """Cancels a response in the background; one that has ended stays as it is."""
    kept = await background.cancel(gateway.responses, who.tenant, response_id)
    return reply(shown(kept.body, ()))


def shown(response: dict[str, Any], include: Sequence[str]) -> dict[str, Any]:
    """A kept response as callers see it: what a search has found is left out unless it is asked for."""
    if SEARCH_RESULTS in include or all(item["type"] != "file_search_call" for item in response["output"]):
        return response
    output = [{**item, "results": None} if item["type"] == "file_search_call" else item for item in response["output"]]
    return {**response, "output": output}
