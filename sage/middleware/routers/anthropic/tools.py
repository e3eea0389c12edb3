"""Tools of Anthropic's Messages as OpenAI's functions, and the choice among them.

Source: Anthropic's API reference (*Messages*: ``tools``, ``tool_choice``).
"""

from __future__ import annotations

from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.routers.anthropic.blocks import BlockReader

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def functions(tools: Any, reader: BlockReader, *, marks: bool) -> list[dict[str, Any]]:
    """The tools as functions. One that Anthropic defines or runs (``web_search_20250305``, ``bash_20250124``…) goes on
    as it is, and ``reader`` notes that."""
    if not isinstance(tools, list):
        raise InvalidRequest("'tools' must be a list", param="tools")
    return [_function(tool, f"tools[{index}]", reader, marks) for index, tool in enumerate(tools)]


def _function(tool: Any, where: str, reader: BlockReader, marks: bool) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise InvalidRequest(f"{where} must be an object", param=where)
    kind = tool.get("type")
    if kind not in (None, "custom"):
        if not isinstance(kind, str):
            raise InvalidRequest(f"{where}.type must be text", param=f"{where}.type")
        reader.note_foreign(where, kind[:100])
        return tool
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where}.name must be text", param=f"{where}.name")
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{where}.input_schema must be a JSON schema", param=f"{where}.input_schema")
    function: dict[str, Any] = {"name": name}
    for field, expected in (("description", str), ("strict", bool)):
        value = tool.get(field)
        if value is not None:
            if not isinstance(value, expected):
                shape = "text" if expected is str else "true or false"
                raise InvalidRequest(f"{where}.{field} must be {shape}", param=f"{where}.{field}")
            function[field] = value
    function["parameters"] = schema
    translated: dict[str, Any] = {"type": "function", "function": function}
    if marks and tool.get("cache_control") is not None:
        translated["cache_control"] = tool["cache_control"]
    return translated


def add_choice(chat: dict[str, Any], choice: Any) -> None:
    """Adds to ``chat`` which tool may be called, and whether several at once."""
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "tool":
        name = choice.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidRequest("tool_choice.name must name a tool", param="tool_choice.name")
        chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in _CHOICES:
        chat["tool_choice"] = _CHOICES[kind]
    else:
        raise InvalidRequest(
            "'tool_choice' must be an object whose 'type' is auto, any, tool or none", param="tool_choice"
        )
    single = choice.get("disable_parallel_tool_use")
    if single is not None and not isinstance(single, bool):
        where = "tool_choice.disable_parallel_tool_use"
        raise InvalidRequest(f"{where} must be true or false", param=where)
    if single:
        chat["parallel_tool_calls"] = False
