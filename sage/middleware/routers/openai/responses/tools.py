"""Responses' tools as functions of chat completions, and the names by which they are known there.

A custom tool becomes a function with one text, ``input``; its grammar is told to the model and held by nobody. A tool
in a namespace gets the namespace's name before its own. Tools that run elsewhere have no translation.

Source: OpenAI's API reference (responses, *Tools* and *Tool choice*).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sage.errors import InvalidRequest
from sage.middleware.providers.wire.tool_calls import arguments_object
from sage.middleware.routers.openai.responses.faults import name_in, only_native, wrong

_MODES = ("auto", "none", "required")
_OWN_TOOLS = frozenset({"file_search", "mcp"})
"""Tools that the gateway runs."""
_BETWEEN = "__"


@dataclass(frozen=True, slots=True)
class ToolName:
    """A tool of the caller as the request has it."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None


@dataclass(slots=True)
class ChatTools:
    """The tools of one request, for chat completions."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, ToolName] = field(default_factory=dict)
    """The caller's tools that are more than a function, by the names of their functions."""
    own: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Tools that the gateway runs, each with its place in the request."""

    def chat_name(self, name: str, namespace: str | None) -> str:
        """What a tool is called in chat completions."""
        return name if namespace is None else f"{namespace}{_BETWEEN}{name}"

    def of(self, chat_name: str) -> ToolName:
        """The tool whose function has that name."""
        return self.names.get(chat_name) or ToolName("function", chat_name)


NO_TOOLS = ChatTools()
"""Those of a request that has none. Nothing is added to it."""


def read_tools(tools: Any, refuse: Callable[[InvalidRequest], None]) -> ChatTools:
    """Raises :class:`InvalidRequest`, naming the field, for what is no tool; ``refuse`` takes what has no
    translation."""
    if not isinstance(tools, list):
        wrong("tools", "a list of tools")
    read = ChatTools()
    for index, tool in enumerate(tools):
        _add(read, tool, f"tools[{index}]", None, refuse)
    return read


def _add(
    read: ChatTools, tool: Any, where: str, namespace: str | None, refuse: Callable[[InvalidRequest], None]
) -> None:
    if not isinstance(tool, dict):
        wrong(where, "an object with a 'type'")
    kind = name_in(tool, "type", where)
    if kind == "function":
        _add_function(read, tool, where, namespace)
    elif kind == "custom":
        _add_custom(read, tool, where, namespace)
    elif kind == "namespace" and namespace is None:
        inner, name = tool.get("tools"), name_in(tool, "name", where)
        if not isinstance(inner, list):
            wrong(f"{where}.tools", "a list of tools")
        for index, each in enumerate(inner):
            _add(read, each, f"{where}.tools[{index}]", name, refuse)
    elif kind in _OWN_TOOLS and namespace is None:
        read.own.append((where, tool))
    else:
        refuse(
            only_native(
                f"the tool '{kind[:100]}', which runs elsewhere,",
                f"{where}.type",
                "leave it out, have an administrator set drop_unsupported: true for the model",
            )
        )


def _description(tool: dict[str, Any], where: str) -> str:
    description = tool.get("description")
    if description is not None and not isinstance(description, str):
        wrong(f"{where}.description", "text")
    return description or ""


def _add_function(read: ChatTools, tool: dict[str, Any], where: str, namespace: str | None) -> None:
    name = name_in(tool, "name", where)
    function: dict[str, Any] = {"name": read.chat_name(name, namespace)}
    if description := _description(tool, where):
        function["description"] = description
    parameters, strict = tool.get("parameters"), tool.get("strict")
    if parameters is not None:
        if not isinstance(parameters, dict):
            wrong(f"{where}.parameters", "a JSON schema")
        function["parameters"] = parameters
    if strict is not None:
        if not isinstance(strict, bool):
            wrong(f"{where}.strict", "true or false")
        function["strict"] = strict
    if namespace is not None:
        read.names[function["name"]] = ToolName("function", name, namespace)
    read.functions.append({"type": "function", "function": function})


def _add_custom(read: ChatTools, tool: dict[str, Any], where: str, namespace: str | None) -> None:
    name = name_in(tool, "name", where)
    chat_name = read.chat_name(name, namespace)
    schema = {
        "type": "object",
        "properties": {"input": {"type": "string", "description": "The tool's input, as plain text."}},
        "required": ["input"],
        "additionalProperties": False,
    }
    description = "\n\n".join(filter(None, (_description(tool, where), _format_hint(tool, where))))
    function = {"name": chat_name, "description": description, "parameters": schema}
    if not description:
        del function["description"]
    read.names[chat_name] = ToolName("custom", name, namespace)
    read.functions.append({"type": "function", "function": function})


def _format_hint(tool: dict[str, Any], where: str) -> str:
    """What the model is told of the form of a custom tool's input."""
    form = tool.get("format")
    if form is None:
        return ""
    if not isinstance(form, dict) or form.get("type") not in ("text", "grammar"):
        wrong(f"{where}.format", "an object with the type 'text' or 'grammar'")
    if form["type"] == "text":
        return ""
    # Older requests have the grammar one level deeper.
    grammar = form["grammar"] if isinstance(form.get("grammar"), dict) else form
    syntax = name_in(grammar, "syntax", f"{where}.format")
    definition = name_in(grammar, "definition", f"{where}.format")
    return f"The input must match this grammar ({syntax}):\n{definition}"


def custom_arguments(text: str) -> dict[str, str]:
    """The arguments of the function that stands for a custom tool which was called with ``text``."""
    return {"input": text}


def custom_input(arguments: str) -> str:
    """What a model has called a custom tool with: the ``input`` of its arguments, or all of them where it wrote plain
    text in their place."""
    value = arguments_object(arguments)
    if value is None:
        return arguments
    text = value.get("input")
    return text if isinstance(text, str) else arguments


def chat_choice(
    choice: Any, tools: ChatTools, refuse: Callable[[InvalidRequest], None]
) -> tuple[Any, list[dict[str, Any]]]:
    """``tool_choice`` for chat completions, and the functions that the model may choose from."""
    if isinstance(choice, str):
        if choice not in _MODES:
            wrong("tool_choice", "'auto', 'none', 'required' or an object with a 'type'")
        return choice, tools.functions
    if not isinstance(choice, dict):
        wrong("tool_choice", "'auto', 'none', 'required' or an object with a 'type'")
    kind = name_in(choice, "type", "tool_choice")
    if kind in ("function", "custom"):
        return _one(choice, "tool_choice", tools), tools.functions
    if kind == "allowed_tools":
        return _allowed(choice, tools)
    if kind not in _OWN_TOOLS:
        refuse(only_native(f"the choice of '{kind[:100]}'", "tool_choice", "choose a function"))
        return "auto", tools.functions
    own = _own_choice(choice, kind)
    if not any(all(tool.get(name) == value for name, value in own.items()) for _, tool in tools.own):
        wrong("tool_choice", f"one of the tools: there is no such '{kind}' among them")
    return choice, tools.functions


def _own_choice(choice: dict[str, Any], kind: str) -> dict[str, str]:
    label = {"server_label": name_in(choice, "server_label", "tool_choice")} if kind == "mcp" else {}
    return {"type": kind, **label}


def _one(choice: dict[str, Any], where: str, tools: ChatTools) -> dict[str, Any]:
    name, namespace = name_in(choice, "name", where), choice.get("namespace")
    name = tools.chat_name(name, namespace if isinstance(namespace, str) else None)
    if not any(function["function"]["name"] == name for function in tools.functions):
        wrong(f"{where}.name", f"the name of one of 'tools': '{name[:100]}' is none")
    return {"type": "function", "function": {"name": name}}


def _allowed(choice: dict[str, Any], tools: ChatTools) -> tuple[str, list[dict[str, Any]]]:
    """The mode, and the functions that are allowed: chat servers know no such choice, so the others are left out."""
    mode, allowed = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required"):
        wrong("tool_choice.mode", "'auto' or 'required'")
    if not isinstance(allowed, list) or not allowed:
        wrong("tool_choice.tools", "a list of tools")
    names, own = set(), []
    for index, each in enumerate(allowed):
        where = f"tool_choice.tools[{index}]"
        if not isinstance(each, dict):
            wrong(where, "an object with a 'type'")
        kind = name_in(each, "type", where)
        if kind in ("function", "custom"):
            names.add(_one(each, where, tools)["function"]["name"])
        else:
            own.append(each)
    tools.own = [
        (where, tool)
        for where, tool in tools.own
        if any(
            each.get("type") == tool.get("type") and each.get("server_label") == tool.get("server_label")
            for each in own
        )
    ]
    return mode, [function for function in tools.functions if function["function"]["name"] in names]
