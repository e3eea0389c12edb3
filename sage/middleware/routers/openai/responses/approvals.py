"""Calls of MCP tools that wait for the caller's approval: the items that ask for it, and what they are known by.

A response that is kept shows itself that it has asked, and is marked once its approval is used. Where nothing is kept,
the id of the item carries a digest with a secret of the gateway (HMAC-SHA256), over the team and all that it asks for.

Source: OpenAI's API reference (responses, *MCP tool*, approvals).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.gateway.responses.kept import KeptResponses
from sage.middleware.gateway.tools.server_tool import ToolRun
from sage.middleware.routers.openai.responses import resource

KIND = "mcp_approval_request"
_FIELDS = ("type", "server_label", "name", "arguments")
_DIGEST = 32
_SEALED_ID = len(resource.item_id("mcpr", resource.response_id(), 0)) + 1 + _DIGEST
"""The least characters of an id that carries a digest."""


@dataclass(frozen=True, slots=True)
class ApprovedCall:
    """A call to which the caller has agreed: ``asked`` is the item that asked for it, ``place`` that of the caller's
    answer in the request."""

    place: str
    asked: Mapping[str, Any]
    call_id: str


class Approvals:
    """Those of one response of ``tenant``. ``secret`` is for one that is not kept; ``None`` means that it is kept."""

    def __init__(self, tenant: str, secret: bytes | None) -> None:
        self._tenant = tenant
        self._secret = secret

    def item(self, response: str, number: int, run: ToolRun) -> dict[str, Any]:
        """The item that asks for the caller's approval of ``run``."""
        origin, name = run.tool.origin, resource.item_id("mcpr", response, number)
        item = {"id": name, "type": KIND, "server_label": origin["server"], "name": origin["tool"]}
        item["arguments"] = run.arguments
        if self._secret is not None:
            item["id"] = f"{name}_{_digest(self._secret, self._tenant, name, item)}"
        return item


async def sealing_secret(responses: KeptResponses) -> bytes:
    """What the gateway knows the requests by that it has not kept."""
    return await responses.run(lambda store: store.secret("approvals"))


async def use(responses: KeptResponses, tenant: str, calls: Sequence[ApprovedCall]) -> None:
    """Takes the approvals of ``calls``, all or none. Raises :class:`InvalidRequest` for a request that no response of
    the tenant has made so, and :class:`sage.errors.Conflict` for one that was approved before."""
    secret: bytes | None = None
    kept: dict[str, dict[str, Any]] = {}
    for call in calls:
        name = call.asked["id"]
        if len(name) < _SEALED_ID:
            kept[name] = {field: call.asked.get(field) for field in _FIELDS}
            continue
        secret = secret or await sealing_secret(responses)
        front, _, digest = name.rpartition("_")
        if not hmac.compare_digest(digest.encode(), _digest(secret, tenant, front, call.asked).encode()):
            raise _not_made(call)
    if kept:
        wrong = await responses.run(lambda store: store.use_approvals(tenant, kept), tenant)
        if wrong is not None:
            raise _not_made(next(call for call in calls if call.asked["id"] == wrong))


def _digest(secret: bytes, tenant: str, name: str, item: Mapping[str, Any]) -> str:
    said = orjson.dumps([tenant, name, *(item.get(field) for field in _FIELDS)])
    return hmac.new(secret, said, hashlib.sha256).hexdigest()[:_DIGEST]


def _not_made(call: ApprovedCall) -> InvalidRequest:
    return InvalidRequest(
        f"'{call.place}' approves a request that no response here has made so, or that is not kept any more: send its "
        "item back as it came, or name its response in 'previous_response_id'",
        param=f"{call.place}.approval_request_id",
        code="approval_not_found",
    )
