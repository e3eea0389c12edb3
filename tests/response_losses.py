"""What becomes of a request of Responses that is translated to a chat, and of a chat's answer as a response: one
function for each row of the table in docs/surfaces.md, which changes a request, or an answer, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from sage.middleware.routers.openai.responses import reasoning

Value = dict[str, Any]
LOGPROBS = "message.output_text.logprobs"
_SEEN = "The tool's pictures and files follow in the next message."
_RUN_HERE = ("file_search_call", "mcp_list_tools")


def request(*items: Value, **fields: Any) -> Value:
    """An example: ``items``, and a question after them."""
    asked = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    return {"model": "m", "input": [*items, asked], **fields}


def message(role: str, *parts: Value) -> Value:
    return {"type": "message", "role": role, "content": list(parts)}


def text(kind: str, said: str, **fields: Any) -> Value:
    return {"type": kind, "text": said, **fields}


def not_sent(value: Value) -> None:
    for name in ("metadata", "truncation", "store", "max_tool_calls", "prompt_cache_key", "safety_identifier"):
        value.pop(name, None)
    value.get("reasoning", {}).pop("summary", None)
    if "include" in value:
        value["include"] = [name for name in value["include"] if name == LOGPROBS]


def neutral(value: Value) -> None:
    options = value.get("text", {})
    if options.get("verbosity") == "medium":
        del options["verbosity"]
    if options.get("format") == {"type": "text"}:
        del options["format"]
    if not value.get("top_logprobs"):
        value.pop("top_logprobs", None)
    for name in ("text", "reasoning", "include"):
        if not value.get(name, True):
            del value[name]


def with_logprobs(value: Value) -> None:
    if value.get("top_logprobs"):
        value["include"] = [LOGPROBS]


def choice_among_tools(value: Value) -> None:
    if not value.get("tools"):
        value.pop("tool_choice", None)
    if not value.get("tools") or value.get("parallel_tool_calls"):
        value.pop("parallel_tool_calls", None)


def allowed_tools(value: Value) -> None:
    choice = value.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        names = {tool["name"] for tool in choice["tools"]}
        value["tools"] = [tool for tool in value["tools"] if tool["name"] in names]
        value["tool_choice"] = choice["mode"]


def functions(value: Value) -> None:
    """Custom tools, their calls and what they answer."""
    if "tools" in value:
        value["tools"] = [_function(tool) for tool in value["tools"]]
    choice = value.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] == "custom":
        choice["type"] = "function"
    for item in _items(value):
        if item["type"] == "custom_tool_call":
            item["type"], item["arguments"] = "function_call", orjson.dumps({"input": item.pop("input")}).decode()
        elif item["type"] == "custom_tool_call_output":
            item["type"] = "function_call_output"


def _function(tool: Value) -> Value:
    if tool["type"] == "namespace":
        return {**tool, "tools": [_function(inner) for inner in tool["tools"]]}
    if tool["type"] != "custom":
        return tool
    said, form = tool.get("description", ""), tool.get("format", {})
    if form.get("type") == "grammar":
        said += "\n\n" if said else ""
        said += f"The input must match this grammar ({form['syntax']}):\n{form['definition']}"
    properties = {"input": {"type": "string", "description": "The tool's input, as plain text."}}
    schema = {"type": "object", "properties": properties, "required": ["input"], "additionalProperties": False}
    described = {"description": said} if said else {}
    return {"type": "function", "name": tool["name"], **described, "parameters": schema}


def namespaces(value: Value) -> None:
    found: list[Value] = []
    for tool in value.get("tools", ()):
        if tool["type"] == "namespace":
            found += [{**inner, "name": f"{tool['name']}__{inner['name']}"} for inner in tool["tools"]]
        else:
            found.append(tool)
    if found:
        value["tools"] = found
    for item in _items(value):
        if "namespace" in item:
            item["name"] = f"{item.pop('namespace')}__{item['name']}"


def server_calls(value: Value) -> None:
    """What the gateway ran for earlier answers."""
    items: list[Value] = []
    for item in _items(value):
        if item["type"] == "mcp_call":
            name = f"{item['server_label']}__{item['name']}"
            arguments = {"name": name, "arguments": item["arguments"]}
            items.append({"type": "function_call", "call_id": item["id"], **arguments})
            items.append({"type": "function_call_output", "call_id": item["id"], "output": item["output"]})
        elif item["type"] not in _RUN_HERE:
            items.append(item)
    _set_items(value, items)


def bare_items(value: Value) -> None:
    for item in _items(value):
        for name in ("id", "status", "phase"):
            if item["type"] != "mcp_call":
                item.pop(name, None)


def lists_of_parts(value: Value) -> None:
    if isinstance(value["input"], str):
        value["input"] = [{"role": "user", "content": value["input"]}]
    for item in value["input"]:
        item.setdefault("type", "message")
        if item["type"] == "message" and isinstance(item["content"], str):
            kind = "output_text" if item["role"] == "assistant" else "input_text"
            item["content"] = [text(kind, item["content"])]


def one_answer_text(value: Value) -> None:
    for item in _items(value):
        if item.get("role") == "assistant":
            said = "".join(part["text"] for part in item["content"] if part["type"] == "output_text")
            refused = [part for part in item["content"] if part["type"] == "refusal"]
            item["content"] = [*([text("output_text", said)] if said or not refused else []), *refused]


def outputs_behind_calls(value: Value) -> None:
    """Nothing stands between a call and what its tool answers."""
    items: list[Value] = []
    for item in _items(value):
        if item["type"].endswith("_output"):
            place = max(at for at, each in enumerate(items) if each.get("call_id") == item["call_id"])
            for kind in ("_call", "_output"):
                while place + 1 < len(items) and items[place + 1]["type"].endswith(kind):
                    place += 1
            items.insert(place + 1, item)
        else:
            items.append(item)
    _set_items(value, items)


def one_output_text(value: Value) -> None:
    """What a tool answers is one text; pictures follow."""
    items: list[Value] = []
    seen: list[Value] = []
    for item in _items(value):
        if seen and not item["type"].endswith("_output"):
            items.append({"type": "message", "role": "user", "content": seen})
            seen = []
        if item["type"].endswith("_output") and isinstance(item["output"], list):
            texts = [part["text"] for part in item["output"] if part["type"] == "input_text"]
            pictures = [part for part in item["output"] if part["type"] != "input_text"]
            item = {**item, "output": "\n".join([*texts, *([_SEEN] if pictures else [])])}
            seen += pictures
        items.append(item)
    _set_items(value, items)


def own_thoughts(value: Value) -> None:
    """Reasoning is one text, with what its vendor has signed, in front of what it has led to."""
    items = _items(value)
    kept = []
    for place, item in enumerate(items):
        if item["type"] != "reasoning":
            kept.append(item)
            continue
        opened = reasoning.opened(item.get("encrypted_content"))
        shown = "\n\n".join(part["text"] for part in item.get("content") or item["summary"])
        said, blocks = opened or (shown, [])
        following = items[place + 1] if place + 1 < len(items) else {}
        if (said or blocks) and (following.get("role") == "assistant" or following.get("type") == "function_call"):
            content = [text("reasoning_text", said)] if said else []
            encrypted = {"encrypted_content": reasoning.sealed(said, blocks)} if blocks else {}
            kept.append({"type": "reasoning", "summary": [], "content": content, **encrypted})
    _set_items(value, kept)


def foreign_thoughts(value: Value) -> None:
    """What another server has encrypted, and reasoning that says nothing."""
    kept = []
    for item in _items(value):
        if item["type"] == "reasoning":
            if reasoning.opened(item.get("encrypted_content")) is None:
                item.pop("encrypted_content", None)
            if not (item.get("encrypted_content") or item.get("content") or item.get("summary")):
                continue
        kept.append(item)
    _set_items(value, kept)


def first_system(value: Value) -> None:
    said = [value.pop("instructions")] if "instructions" in value else []
    items: list[Value] = []
    for item in _items(value):
        if item.get("role") in ("system", "developer"):
            joined = "\n".join(part["text"] for part in item["content"])
            if not items:
                said.append(joined)
                continue
            item = message("system", text("input_text", joined))
        items.append(item)
    if said:
        items.insert(0, message("system", text("input_text", "\n\n".join(said))))
    _set_items(value, items)


def without_part(value: Value) -> None:
    """Parts that have no translation."""
    for item in _items(value):
        if isinstance(item.get("content"), list):
            item["content"] = [part for part in item["content"] if not {"file_url", "file_id"} & part.keys()]


def _items(value: Value) -> list[Value]:
    return value["input"] if isinstance(value["input"], list) else []


def _set_items(value: Value, items: list[Value]) -> None:
    if isinstance(value["input"], list):
        value["input"] = items


def new_answer_head(value: Value) -> None:
    for name in ("id", "object", "created", "system_fingerprint"):
        value.pop(name, None)


def custom_input(name: str) -> Callable[[Value], None]:
    """Calls of the custom tool of that name."""

    def apply(value: Value) -> None:
        for call in value["choices"][0]["message"].get("tool_calls", ()):
            function = call["function"]
            if function["name"] == name:
                try:
                    given = orjson.loads(function["arguments"])
                except orjson.JSONDecodeError:
                    given = None
                if isinstance(given, dict) and isinstance(given.get("input"), str):
                    given = given["input"]
                else:
                    given = function["arguments"]
                function["arguments"] = orjson.dumps({"input": given}).decode()

    return apply
