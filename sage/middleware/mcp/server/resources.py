"""Collections as resources: ``sage://collections/{name}``, a page of its documents, and each document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import orjson

from sage.errors import InvalidRequest, NotFound
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.gateway import Gateway

SCHEME = "sage"
_PAGE = 100
_MOST = 1000
JSON = "application/json"
TEXT = "text/plain"

TEMPLATES = (
    (
        "collection",
        "A collection",
        f"{SCHEME}://collections/{{collection}}",
        "How many documents, what it is made with.",
    ),
    (
        *("documents", "Documents of a collection"),
        f"{SCHEME}://collections/{{collection}}/documents{{?cursor,limit}}",
        "A page of its documents as JSON, with the cursor of the next page.",
    ),
    (
        *("document", "A document"),
        f"{SCHEME}://collections/{{collection}}/documents/{{id}}",
        "The text of one document.",
    ),
)
"""``(name, title, URI template, description)`` of what can be read."""


@dataclass(frozen=True, slots=True)
class ResourceText:
    """What a resource holds."""

    text: str
    mime_type: str


def uri_of(collection: str) -> str:
    """The URI of a collection."""
    return f"{SCHEME}://collections/{quote(collection, safe='')}"


async def list_collections(
    gateway: Gateway, principal: Principal, cursor: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the caller's collections as they are described, and the cursor of the next page."""
    collections = sorted(await gateway.collections.describe_all(principal), key=lambda each: str(each["name"]))
    if cursor is not None:
        collections = [each for each in collections if each["name"] > cursor]
    page = collections[:_PAGE]
    return page, page[-1]["name"] if len(collections) > _PAGE else None


async def read_resource(gateway: Gateway, principal: Principal, uri: str) -> ResourceText:
    """What ``uri`` names. Raises :class:`NotFound`, also for what is no URI of ours."""
    collection, kind, rest, query = _parts(uri)
    if kind == "":
        described = await gateway.collections.describe(principal, collection)
        return ResourceText(orjson.dumps(described, default=str).decode(), JSON)
    if rest is not None:
        document = await gateway.collections.document(principal, collection, rest)
        return ResourceText(document.text, TEXT)
    limit, cursor = query.get("limit", [str(_PAGE)])[0], query.get("cursor", [None])[0]
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _MOST:
        raise InvalidRequest(f"'limit' must be from 1 to {_MOST}", param="limit")
    page, following = await gateway.collections.page(principal, collection, cursor, int(limit), None)
    documents = [{"id": each.id, "text": each.text, "metadata": each.metadata} for each in page]
    return ResourceText(orjson.dumps({"documents": documents, "cursor": following}).decode(), JSON)


def _parts(uri: str) -> tuple[str, str, str | None, dict[str, list[Any]]]:
    """The collection, ``documents`` or nothing, the id of a document, and the query."""
    try:
        parts = urlsplit(uri)
        segments = parts.path.removeprefix("/").split("/", 2)
        collection, kind = unquote(segments[0], errors="strict"), segments[1] if len(segments) > 1 else ""
        rest = unquote(segments[2], errors="strict") if len(segments) > 2 else None
    except ValueError:
        raise _unknown(uri) from None
    if parts.scheme != SCHEME or parts.netloc != "collections" or not collection or kind not in ("", "documents"):
        raise _unknown(uri)
    if rest == "" or (kind == "" and len(segments) > 1):
        raise _unknown(uri)
    return collection, kind, rest, parse_qs(parts.query)


def _unknown(uri: str) -> NotFound:
    return NotFound(f"there is no resource '{uri[:200]}'; resources/templates/list says what there is")
