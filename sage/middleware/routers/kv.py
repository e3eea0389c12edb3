"""``/kv``: the key-value service, in the caller's tenant."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import orjson
from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.services.tenant_views import KVView
from sage.middleware.routers.http.asgi import read_json
from sage.middleware.routers.http.deps import Caller, TheGateway
from sage.middleware.routers.http.guard import guarded_router, max_body, requires
from sage.middleware.routers.http.openapi_bodies import json_body
from sage.middleware.routers.items import Cleared, Deleted, reply

router = guarded_router("Services")


class PutEntry(BaseModel):
    """A value, any JSON. With `expected` it is put only where that is (null: where no entry is), else 409."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    value: Any
    ttl: float | None = Field(None, gt=0, description="Seconds after which it is gone; none: the configuration's.")
    expected: Any = None


class KeyWritten(BaseModel):
    """The key that was written."""

    key: str


class Entry(BaseModel):
    """A key and its value. A value of bytes, which a task wrote, comes as text with `encoding: base64`."""

    key: str
    value: Any
    encoding: str | None = None


class KeyPage(BaseModel):
    """Keys in order; `next` is the `after` of the next page, and null at the last."""

    keys: list[str]
    next: str | None


def _view(gateway: TheGateway, principal: Caller) -> KVView:
    return KVView(gateway.services, principal)


def _key(key: str) -> str:
    if not key:
        raise InvalidRequest("a key may not be empty: /kv/{key}", param="key")
    return key


TheKV = Annotated[KVView, Depends(_view)]
TheKey = Annotated[str, Depends(_key)]


@router.get("/kv", name="kv_list", response_model=KeyPage)
@requires(Scope.KV)
async def list_keys(kv: TheKV, prefix: str = "", limit: int = 100, after: str | None = None) -> Response:
    """The keys that begin with `prefix`, in order."""
    keys, following = await kv.keys(prefix, limit, after)
    return reply({"keys": keys, "next": following})


@router.delete("/kv", name="kv_clear", response_model=Cleared)
@requires(Scope.KV)
async def clear_keys(
    kv: TheKV, prefix: Annotated[str, Query(description="Must be given; empty: every key of the tenant.")]
) -> Response:
    """Deletes all keys that begin with `prefix`."""
    return reply({"deleted": await kv.clear(prefix)})


@router.get("/kv/{key:path}", name="kv_get", response_model=Entry)
@requires(Scope.KV)
async def get_value(key: TheKey, kv: TheKV) -> Response:
    """The value of a key, which may contain `/`."""
    value = await kv.get(key)
    if isinstance(value, bytes):
        return reply({"key": key, "value": base64.b64encode(value).decode(), "encoding": "base64"})
    return reply({"key": key, "value": value})


@router.put(
    "/kv/{key:path}",
    name="kv_put",
    response_model=KeyWritten,
    openapi_extra=json_body(PutEntry, {"value": {"theme": "dark"}, "ttl": 3600}),
)
@requires(Scope.KV)
@max_body(None)
async def put_value(key: TheKey, request: Request, kv: TheKV) -> Response:
    """Puts a value; answers once it is as durable as the configured store makes it."""
    wanted = parse(PutEntry, await read_json(request.receive, request.scope))
    check_size(wanted.value, kv.limits.max_value, "value")
    if "expected" in wanted.model_fields_set:
        await kv.replace(key, wanted.expected, wanted.value, wanted.ttl)
    else:
        await kv.put(key, wanted.value, wanted.ttl)
    return reply({"key": key})


@router.delete("/kv/{key:path}", name="kv_delete", response_model=Deleted)
@requires(Scope.KV)
async def delete_value(key: TheKey, kv: TheKV) -> Response:
    """Deletes a key."""
    return reply({"deleted": await kv.delete(key)})


def check_size(value: Any, most: int, param: str) -> None:
    """Raises :class:`InvalidRequest` when ``value`` takes more than ``most`` bytes as JSON."""
    try:
        size = len(orjson.dumps(value))
    except TypeError:
        raise InvalidRequest(f"'{param}' is nested too deeply", param=param) from None
    if size > most:
        raise InvalidRequest(
            f"'{param}' takes {size} bytes; it may take {most} (services.limits.max_value)",
            param=param,
            code="value_too_large",
        )
