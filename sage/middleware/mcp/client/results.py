"""The result of a tool of an MCP server, bounded: as a client of MCP gets it, and as a model reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sage.middleware.gateway.tools.server_tool import ToolOutput


def bounded_result(result: Mapping[str, Any], most: int) -> dict[str, Any]:
    """``result`` (``tools/call``) with at most ``most`` bytes of content: larger ones become a text that is cut."""
    content = [part for part in result.get("content", ()) if isinstance(part, dict)]
    shown: dict[str, Any] = {"content": content, "isError": result.get("isError") is True}
    if isinstance(result.get("structuredContent"), dict):
        shown["structuredContent"] = result["structuredContent"]
    if len(orjson.dumps(shown)) <= most:
        return shown
    return {"content": [{"type": "text", "text": _cut(text_of(result), most)}], "isError": shown["isError"]}


def output_of(result: Mapping[str, Any], most: int) -> ToolOutput:
    """What a model reads of it."""
    return ToolOutput(_cut(text_of(result), most), is_error=result.get("isError") is True)


def text_of(result: Mapping[str, Any]) -> str:
    """Its texts, one after the other; what is no text is named. Without any, its structured content as JSON."""
    parts = [_text(part) for part in result.get("content", ()) if isinstance(part, dict)]
    if parts:
        return "\n".join(parts)
    structured = result.get("structuredContent")
    return orjson.dumps(structured).decode() if structured is not None else ""


def _text(part: Mapping[str, Any]) -> str:
    kind = part.get("type")
    if kind == "text":
        return str(part.get("text", ""))
    resource = part.get("resource")
    if kind == "resource" and isinstance(resource, dict):
        return str(resource["text"]) if isinstance(resource.get("text"), str) else f"[resource {resource.get('uri')}]"
    if kind == "resource_link":
        return f"[resource {part.get('uri')}]"
    return f"[{kind}: {part.get('mimeType', 'unknown')}, {len(str(part.get('data', '')))} characters of base64]"


def _cut(text: str, most: int) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= most:
        return text
    return data[:most].decode("utf-8", "ignore") + f"\n[cut: {len(data) - most} of {len(data)} bytes are left out]"
