"""Tools and the choice among them, from OpenAI's shape to Google's.

Source: Google's API reference (``Tool``, ``ToolConfig``), and its guide on function calling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.gemini.parts import Refuse
from sage.middleware.providers.wire.json_values import objects

_OWN = {
    name: camel
    for camel in ("googleSearch", "googleMaps", "urlContext", "codeExecution", "fileSearch", "computerUse")
    for name in (camel, "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in camel))
}
"""Google's own tools, which run there, by both ways to write them."""
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}


def add_tools(sent: dict[str, Any], body: Mapping[str, Any], refuse: Refuse) -> None:
    """Adds ``tools`` and ``toolConfig`` to the request."""
    listed = body.get("tools") or []
    if not isinstance(listed, list):
        raise InvalidRequest("'tools' must be a list", param="tools")
    declarations: list[dict[str, Any]] = []
    own: dict[str, Any] = {}
    is_strict = False
    for index, tool in enumerate(listed):
        if not isinstance(tool, dict):
            raise InvalidRequest(f"tools[{index}] must be an object", param=f"tools[{index}]")
        function = tool.get("function")
        name = next(iter(tool), "")
        if tool.get("type", "function") == "function" and isinstance(function, dict):
            declarations.append(_declaration(function, f"tools[{index}]"))
            is_strict = is_strict or function.get("strict") is True
        elif len(tool) == 1 and name in _OWN:
            own[_OWN[name]] = tool[name] if isinstance(tool[name], dict) else {}
        else:
            refuse(f"tools[{index}]", " (it has functions, and Google's own tools)")
    mode, declarations, allowed = _choice(body.get("tool_choice"), declarations, refuse)
    tools = [{"functionDeclarations": declarations}] if declarations else []
    tools += [{name: options} for name, options in own.items()]
    if tools:
        sent["tools"] = tools
    if declarations and mode in (None, "AUTO") and is_strict:
        mode = "VALIDATED"
    if declarations and mode is not None:
        chosen: dict[str, Any] = {"mode": mode}
        if allowed:
            chosen["allowedFunctionNames"] = allowed
        sent["toolConfig"] = {"functionCallingConfig": chosen}


def _declaration(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    declared = {"name": function.get("name"), "description": function.get("description") or ""}
    schema = function.get("parameters")
    if schema is not None and not isinstance(schema, dict):
        raise InvalidRequest(f"{where}.function.parameters must be a JSON schema", param=where)
    if schema:
        declared["parametersJsonSchema"] = schema
    return declared


def _choice(
    choice: Any, declarations: list[dict[str, Any]], refuse: Refuse
) -> tuple[str | None, list[dict[str, Any]], list[Any]]:
    """The mode, the functions that are offered, and the names of those that may be called, where not all may."""
    if choice is None:
        return None, declarations, []
    if isinstance(choice, str) and choice in _MODES:
        return _MODES[choice], declarations, []
    allowed = choice.get("allowed_tools") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and choice.get("type") == "function":
        names, mode = [_name(choice)], "ANY"
    elif isinstance(allowed, dict) and choice.get("type") == "allowed_tools":
        names = [_name(tool) for tool in objects(allowed.get("tools"))]
        mode = _MODES.get(str(allowed.get("mode")), "AUTO")
    else:
        refuse("tool_choice", " of this form (it has auto, none, required and functions)")
        return None, declarations, []
    known = [each["name"] for each in declarations if each["name"] in names]
    if not known:
        raise InvalidRequest("'tool_choice' names no function of 'tools'", param="tool_choice")
    if mode == "ANY":
        return mode, declarations, known
    return mode, [each for each in declarations if each["name"] in known], []


def _name(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else tool.get("name")
