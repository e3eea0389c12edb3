"""The messages of a chat in OpenAI's shape as Google's ``systemInstruction`` and ``contents``: pure functions.

Source: Google's API reference (``Content``), and its guides on function calling and thought signatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.gemini.parts import Refuse, parts_of
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.json_values import string
from sage.middleware.providers.wire.messages import content_of
from sage.middleware.providers.wire.thought_signatures import FOREIGN_CALL, signature_in_blocks, signature_of
from sage.middleware.providers.wire.tool_calls import arguments_object

_KEYS = {
    "system": frozenset({"role", "content", "cache_control"}),
    "user": frozenset({"role", "content", "cache_control"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name", "is_error", "cache_control"}),
}
_ROLES = ("system", "user", "assistant", "tool")


class ContentsBuilder:
    """The turns of a chat; messages of one role that follow each other are one turn."""

    def __init__(self, refuse: Refuse, *, needs_signatures: bool) -> None:
        self.system: list[dict[str, Any]] = []
        self.contents: list[dict[str, Any]] = []
        self._refuse = refuse
        self._needs_signatures = needs_signatures
        self._names: dict[str, str] = {}
        """The function of each call, by its id."""

    def add(self, index: int, message: Mapping[str, Any]) -> None:
        """Adds a message, by its place in the chat."""
        where = f"messages[{index}]"
        role = "system" if message["role"] == "developer" else message["role"]
        if role not in _ROLES:
            self._refuse(f"{where}.role", f" (it knows {', '.join(_ROLES)})")
            return
        for key, value in message.items():
            if role in _KEYS and key not in _KEYS[role] and value not in (None, [], ""):
                self._refuse(f"{where}.{key}", "")
        if role == "assistant":
            self._add_turn("model", self._answer(message, where))
        elif role == "tool":
            self._add_turn("user", self._result(message, where))
        elif role == "user":
            self._add_turn("user", parts_of(message.get("content"), where, self._refuse))
        else:
            parts = parts_of(message.get("content"), where, self._refuse)
            if any("text" not in part for part in parts):
                self._refuse(f"{where}.content", " with other than text in a system message")
            self.system += [part for part in parts if "text" in part]

    def _add_turn(self, role: str, parts: list[dict[str, Any]]) -> None:
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})

    def _answer(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        """An earlier answer. Its calls bring back the signatures of the thoughts before them.

        Other fields are those of answers that clients send back (``annotations``, ``audio``): left out.
        """
        if message.get("function_call") is not None:
            self._refuse(f"{where}.function_call", " (it has tool_calls)")
        parts = parts_of(content_of(message), where, self._refuse)
        if parts and (signature := signature_of(message)):
            parts[-1]["thoughtSignature"] = signature
        calls = message.get("tool_calls") or []
        made = [
            self._call(call, f"{where}.tool_calls[{n}]")
            for n, call in enumerate(calls if isinstance(calls, list) else [calls])
        ]
        if made and not any("thoughtSignature" in part for part in made):
            # Of calls in parallel, the first has the signature.
            signature = signature_in_blocks(message) or (FOREIGN_CALL if self._needs_signatures else "")
            if signature:
                made[0]["thoughtSignature"] = signature
        return parts + made

    def _call(self, call: Any, where: str) -> dict[str, Any]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"{where} must be the call of a function, with its 'name'", param=where)
        arguments = arguments_object(function.get("arguments"))
        if arguments is None:
            raise InvalidRequest(
                f"{where}.function.arguments must be a JSON object", param=f"{where}.function.arguments"
            )
        identity = string(call.get("id"))
        self._names[identity] = function["name"]
        part: dict[str, Any] = {"functionCall": {"id": identity, "name": function["name"], "args": arguments}}
        if signature := signature_of(call):
            part["thoughtSignature"] = signature
        return part

    def _result(self, message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        """The result of a tool, under the name of its function, and the pictures that came with it."""
        identity = message.get("tool_call_id")
        if not isinstance(identity, str):
            raise InvalidRequest(f"{where} must name its 'tool_call_id'", param=f"{where}.tool_call_id")
        name = self._names.get(identity) or message.get("name")
        if not name or not isinstance(name, str):
            raise InvalidRequest(
                f"{where}.tool_call_id: no earlier message has a call '{identity[:100]}'", param=f"{where}.tool_call_id"
            )
        parts = parts_of(message.get("content"), where, self._refuse)
        text = "".join(part["text"] for part in parts if "text" in part)
        is_error = message.get("is_error") is True
        response = {"id": identity, "name": name, "response": _response(text, is_error=is_error)}
        return [{"functionResponse": response}, *(part for part in parts if "text" not in part)]


def _response(text: str, *, is_error: bool) -> dict[str, Any]:
    """What a function has answered, which Google takes as an object."""
    if is_error:
        return {"error": text}
    if text.lstrip().startswith("{"):
        try:
            value = lenient_json.read(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
    return {"output": text}
