"""A call of a tool that the request forces (``tool_choice``). llama.cpp does not enforce it, but a JSON schema it does.

So the model is asked for the arguments as JSON, under the schema of the tool, and what it answers becomes the call.
That works for every model, also for one whose chat template knows no tools.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.providers.wire.tool_calls import call_id

_BEGIN = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*', re.DOTALL)
"""How a choice among several functions begins, under our schema."""


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """One of ``functions``, by name, has to be called. ``name`` is the one that the request names."""

    functions: Mapping[str, Mapping[str, Any]]
    name: str | None

    def apply(self, body: dict[str, Any]) -> None:
        """Changes ``body`` in place: it asks for the call as JSON."""
        for field in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(field, None)
        schema = self._schema()
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
        first, *rest = body["messages"] or [{}]
        if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
            first = {**first, "content": f"{first['content']}\n{self._request()}"}
            body["messages"] = [first, *rest]
        else:
            body["messages"] = [{"role": "system", "content": self._request()}, *body["messages"]]

    def put_into(self, choice: dict[str, Any], message: dict[str, Any], text: str) -> None:
        """Makes the call of the model's ``text``: it goes into ``message``, a message or a delta of ``choice``."""
        name, arguments = self._read(text)
        if name is None:
            message["content"] = text
            return
        call = {"id": call_id(), "type": "function", "function": {"name": name, "arguments": arguments}}
        message["content"], message["tool_calls"] = None, [call]
        if choice.get("finish_reason") == "stop":
            choice["finish_reason"] = "tool_calls"

    def _read(self, text: str) -> tuple[str | None, str]:
        """Name and arguments; an answer that was cut has them as far as they came."""
        if self.name is not None:
            return self.name, _compact(text)
        match = _BEGIN.match(text)
        if match is None:
            return None, ""
        arguments = text[match.end() :].rstrip()
        try:
            return str(orjson.loads(text)["name"]), orjson.dumps(orjson.loads(text)["arguments"]).decode()
        except orjson.JSONDecodeError:
            return str(orjson.loads(match[1])), arguments

    def _schema(self) -> dict[str, Any]:
        if self.name is not None:
            return dict(_parameters(self.functions[self.name]))
        definitions: dict[str, Any] = {}
        choices = []
        for name, function in self.functions.items():
            parameters = dict(_parameters(function))
            definitions |= parameters.pop("$defs", {})  # references to them begin at the root
            properties = {"name": {"const": name}, "arguments": parameters}
            choices.append({"type": "object", "properties": properties, "required": ["name", "arguments"]})
        return {"anyOf": choices, **({"$defs": definitions} if definitions else {})}

    def _request(self) -> str:
        """What the model is told of the functions."""
        if self.name is not None:
            return f"Answer with the arguments of a function as JSON.\n{_described(self.functions[self.name])}"
        functions = "\n".join(map(_described, self.functions.values()))
        return f'Answer with a call of one function as JSON: {{"name": …, "arguments": …}}.\n{functions}'


class ForcedStream:
    """The same for the chunks of a stream: the call comes whole, with the end of its choice."""

    def __init__(self, forced: ForcedCall) -> None:
        self._forced = forced
        self._texts: dict[int, list[str]] = {}

    def __call__(self, chunk: dict[str, Any]) -> None:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            choice["delta"] = delta
            texts = self._texts.setdefault(choice.get("index", 0), [])
            text = delta.pop("content", None)
            if isinstance(text, str):
                texts.append(text)
            if choice.get("finish_reason"):
                self._forced.put_into(choice, delta, "".join(texts))
                for index, call in enumerate(delta.get("tool_calls") or ()):
                    call["index"] = index


def read_forced_call(body: Mapping[str, Any]) -> ForcedCall | None:
    """The call that ``body`` forces; ``None`` if it forces none. Raises :class:`InvalidRequest` for an unknown tool."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    named = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    if (choice != "required" and not isinstance(named, dict)) or not isinstance(tools, list):
        return None
    listed = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    functions = {each["name"]: each for each in listed if isinstance(each, dict) and isinstance(each.get("name"), str)}
    if not functions:
        return None
    name = named.get("name") if isinstance(named, dict) else next(iter(functions)) if len(functions) == 1 else None
    if isinstance(named, dict) and name not in functions:
        raise InvalidRequest("'tool_choice' names no function of 'tools'", param="tool_choice")
    return ForcedCall(functions, name)


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = function.get("parameters")
    return parameters if isinstance(parameters, dict) and parameters else {"type": "object", "properties": {}}


def _described(function: Mapping[str, Any]) -> str:
    description = f": {function['description']}" if isinstance(function.get("description"), str) else ""
    return f"{function['name']}{description}\n{orjson.dumps(_parameters(function)).decode()}"


def _compact(text: str) -> str:
    try:
        return orjson.dumps(orjson.loads(text)).decode()
    except orjson.JSONDecodeError:
        return text.strip()
