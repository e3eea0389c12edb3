"""Tools, the choice among them and the form of the answer, from OpenAI's shape to Anthropic's.

Source: Anthropic's API reference, *Messages*, and its guides on tool use and structured outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.anthropic.models import ModelFacts
from sage.middleware.providers.anthropic.parts import Refuse, with_cache_control
from sage.middleware.providers.wire.json_values import objects

ANSWER_TOOL = "give_answer"
"""The tool by which a model without structured outputs has to answer where the caller gives a schema."""
_MODES = {"auto": "auto", "required": "any", "none": "none"}


def answers_by_tool(body: Mapping[str, Any]) -> bool:
    """Whether a call of :data:`ANSWER_TOOL` is the answer to ``body``, not a call of the caller's."""
    form = body.get("response_format")
    return isinstance(form, dict) and form.get("type") == "json_schema" and not body.get("tools")


def add_tools(sent: dict[str, Any], body: Mapping[str, Any], facts: ModelFacts, refuse: Refuse) -> None:
    """Adds ``tools`` and ``tool_choice`` to the request."""
    listed = body.get("tools") or []
    if not isinstance(listed, list):
        raise InvalidRequest("'tools' must be a list", param="tools")
    tools = [each for n, tool in enumerate(listed) if (each := _tool(tool, f"tools[{n}]", facts, refuse))]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        choice, tools = _allowed(choice, tools)
    chosen = _choice(choice, tools, refuse)
    if not tools:
        # The calls in the conversation need their tools, though the caller offers none now.
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in _called(sent["messages"])]
        chosen = {"type": "none"} if tools else None
    if not tools:
        return
    sent["tools"] = tools
    if body.get("parallel_tool_calls") is False:
        chosen = chosen or {"type": "auto"}
        if chosen["type"] != "none":
            chosen["disable_parallel_tool_use"] = True
    if chosen is not None:
        sent["tool_choice"] = chosen


def _tool(tool: Any, where: str, facts: ModelFacts, refuse: Refuse) -> dict[str, Any] | None:
    if not isinstance(tool, dict):
        raise InvalidRequest(f"{where} must be an object", param=where)
    function = tool.get("function")
    if tool.get("type", "function") == "function" and isinstance(function, dict):
        schema = function.get("parameters")
        translated = {"name": function.get("name"), "input_schema": _object_schema(schema, where)}
        if function.get("description"):
            translated["description"] = function["description"]
        if function.get("strict") is True and facts.takes_schema:
            translated["strict"] = True
            translated["input_schema"] = closed(translated["input_schema"])
        return with_cache_control(with_cache_control([translated], function), tool)[0]
    if isinstance(tool.get("name"), str) and ("input_schema" in tool or tool.get("type") not in (None, "custom")):
        return tool  # Anthropic's own: `text_editor_20250728`, `web_search_20260318`
    refuse(where, " (it has functions, and Anthropic's own tools)")
    return None


def _object_schema(schema: Any, where: str) -> dict[str, Any]:
    if schema is None:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{where}.function.parameters must be a JSON schema", param=where)
    return schema if "type" in schema else {"type": "object", **schema}


def _allowed(choice: Mapping[str, Any], tools: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """The mode, and the tools, of a choice that allows only some of them."""
    allowed = choice.get("allowed_tools")
    allowed = allowed if isinstance(allowed, dict) else {}
    names = [_name(tool) for tool in objects(allowed.get("tools"))]
    kept = [tool for tool in tools if tool.get("name") in names]
    if not kept:
        raise InvalidRequest("'tool_choice' names no function of 'tools'", param="tool_choice")
    return allowed.get("mode", "auto"), kept


def _choice(choice: Any, tools: list[dict[str, Any]], refuse: Refuse) -> dict[str, Any] | None:
    if choice is None:
        return None
    if isinstance(choice, str) and choice in _MODES:
        return {"type": _MODES[choice]}
    if isinstance(choice, dict) and choice.get("type") == "function":
        name = _name(choice)
        if not any(tool.get("name") == name for tool in tools):
            raise InvalidRequest("'tool_choice' names no function of 'tools'", param="tool_choice")
        return {"type": "tool", "name": name}
    refuse("tool_choice", " of this form (it has auto, none, required and one function)")
    return None


def _name(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else tool.get("name")


def _called(messages: list[dict[str, Any]]) -> list[str]:
    """The names of the tools that were called, each once."""
    blocks = (block for message in messages for block in objects(message["content"]))
    return list(dict.fromkeys(block["name"] for block in blocks if block.get("type") == "tool_use"))


def add_form(sent: dict[str, Any], body: Mapping[str, Any], facts: ModelFacts, refuse: Refuse) -> None:
    """Adds what ``response_format`` asks for: a schema for the answer, by structured outputs or by a forced tool."""
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else form
    if form is None or kind == "text":
        return
    if kind != "json_schema" or not isinstance(form, dict):
        refuse("response_format", f" of the type '{kind}' (it has json_schema)")
        return
    wrapped = form.get("json_schema")
    schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequest(
            "'response_format.json_schema.schema' must be a JSON schema", param="response_format.json_schema"
        )
    if facts.takes_schema:
        sent.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": closed(schema)}
        return
    if sent.get("tools"):
        refuse("response_format", " with tools for this model")
        return
    description = wrapped.get("description") if isinstance(wrapped, dict) else None
    tool = {"name": ANSWER_TOOL, "input_schema": schema, "description": description or "Give the answer in this form."}
    sent["tools"], sent["tool_choice"] = [tool], {"type": "tool", "name": ANSWER_TOOL}


def closed(schema: Any) -> Any:
    """``schema`` with ``additionalProperties: false`` at each object that does not say: Anthropic asks for it."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {
        name: value if name in ("enum", "const", "default", "examples") else closed(value)
        for name, value in schema.items()
    }
    kind = inner.get("type")
    if (kind == "object" or (isinstance(kind, list) and "object" in kind)) and "additionalProperties" not in inner:
        inner["additionalProperties"] = False
    return inner
