"""The items of a request as they are kept, and listed: each with an id, and every field that a listed item has.

Source: OpenAI's API reference (responses, *List input items*).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "file_search_call": "fs",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_response": "mcpa",
}
_WITHOUT_STATUS = frozenset({"reasoning", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"})
_LONGEST_ID = 128
_DETAIL = "auto"


def kept_items(items: Sequence[dict[str, Any]], response: str) -> list[dict[str, Any]]:
    """``items``, which are checked, as they are kept with ``response``."""
    return [_kept(item, response, number) for number, item in enumerate(items)]


def _kept(item: dict[str, Any], response: str, number: int) -> dict[str, Any]:
    kind = item.get("type") or "message"
    kept = {name: value for name, value in item.items() if value is not None} | {"type": kind}
    name = item.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_ID or "\0" in name:
        kept["id"] = f"{_PREFIXES.get(kind, 'item')}_{response[5:]}i{number:02d}"
    if kind not in _WITHOUT_STATUS and not isinstance(item.get("status"), str):
        kept["status"] = "completed"
    if kind == "message":
        kept["content"] = _content(item.get("content"), is_answer=item.get("role") == "assistant")
    elif kind == "reasoning":
        kept.setdefault("summary", [])
    return kept


def _content(content: Any, *, is_answer: bool) -> list[dict[str, Any]]:
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content or []
    return [_part(part, is_answer=is_answer) for part in parts]


def _part(part: dict[str, Any], *, is_answer: bool) -> dict[str, Any]:
    if part["type"] == "input_image":
        return {"detail": _DETAIL, **{name: value for name, value in part.items() if value is not None}}
    if is_answer and part["type"] != "refusal":
        return {"annotations": [], **part, "type": "output_text"}
    return part if part["type"] != "text" else {**part, "type": "input_text"}
