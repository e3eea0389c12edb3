"""What MCP servers say of their tools: checked, bounded, and named by a digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sage.middleware.gateway.context.neutralise import neutralise_control_tokens

MOST_TOOLS = 256
"""Tools of one server; further ones are passed over."""
MOST_PAGES = 32
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_PUBLIC = 64
"""What models' servers take as the name of a function."""
_DESCRIPTION = 4096
"""Characters."""
_SCHEMA = 32 * 2**10
"""Bytes of JSON."""
_DEPTH = 24
_SHOWN = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
_HINTS = ("title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """One tool of a server. ``shown`` is it in MCP's shape, under its own name."""

    name: str
    shown: Mapping[str, Any]
    digest: str
    """SHA-256 of all that the server says of it, in hexadecimal."""


def public_name(server: str, tool: str) -> str:
    """The name by which clients and models call a tool of a server."""
    return f"{server}__{tool.replace('.', '_')}"


def read_tool(server: str, offered: Mapping[str, Any]) -> ToolDefinition | str:
    """The tool that a server offers, or why it is left out."""
    name = offered.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        return f"{name!r:.80}: its name is not 1 to 64 letters, digits, '_', '-' and '.'"
    if len(public_name(server, name)) > _LONGEST_PUBLIC:
        return f"'{name}': with the server's name before it, its name is longer than {_LONGEST_PUBLIC} characters"
    whole = {field: offered[field] for field in _SHOWN if offered.get(field) is not None}
    schema = whole.get("inputSchema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return f"'{name}': its inputSchema is not that of an object"
    for field in ("inputSchema", "outputSchema"):
        if (fault := _fault(whole.get(field))) is not None:
            return f"'{name}': its {field} {fault}"
    description = str(whole.get("description", ""))
    if len(description) > _DESCRIPTION:
        return f"'{name}': its description has {len(description)} characters; at most {_DESCRIPTION} are taken"
    digest = hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return ToolDefinition(name, _cleaned(whole, description), digest)


def _cleaned(whole: dict[str, Any], description: str) -> dict[str, Any]:
    """Without control characters and control tokens in what models read, and without hints that are none."""
    shown: dict[str, Any] = {field: whole[field] for field in ("name", "inputSchema", "outputSchema") if field in whole}
    shown["inputSchema"] = _harmless(shown["inputSchema"])
    shown["description"] = neutralise_control_tokens(description)
    if isinstance(whole.get("title"), str):
        shown["title"] = neutralise_control_tokens(whole["title"][:200])
    hints = whole.get("annotations")
    if isinstance(hints, dict):
        kept = {name: hints[name] for name in _HINTS if type(hints.get(name)) is bool}
        if kept:
            shown["annotations"] = kept
    return shown


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return neutralise_control_tokens(value)
    if isinstance(value, list):
        return [_harmless(each) for each in value]
    return {key: _harmless(each) for key, each in value.items()} if isinstance(value, dict) else value


def _fault(schema: Any) -> str | None:
    """Why a schema is not taken: its size, its depth, or a reference to elsewhere."""
    if schema is None:
        return None
    if not isinstance(schema, dict):
        return "is no object"
    try:
        size = len(orjson.dumps(schema))
    except (TypeError, ValueError):
        return "is nested too deeply"
    if size > _SCHEMA:
        return f"takes {size} bytes; at most {_SCHEMA} are taken"
    return _deep_fault(schema, _DEPTH)


def _deep_fault(value: Any, depth: int) -> str | None:
    if depth == 0:
        return f"is nested more than {_DEPTH} levels deep"
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            return "refers to a schema elsewhere"
        value = list(value.values())
    if isinstance(value, list):
        return next((fault for each in value if (fault := _deep_fault(each, depth - 1)) is not None), None)
    return None
