"""Calls of tools as servers of OpenAI's wire really send them, gathered from the fragments of a stream.

OpenAI numbers each call by ``index`` and sends its id and name once. Others send every whole call under ``index: 0``,
repeat id and name in each fragment, leave out the index or the id, or send ``arguments`` as an object.

Source: OpenAI's API reference, *Chat completion chunk*.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import orjson

from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.json_values import string

LEGACY = "function_call"
"""The field that had the one call of an answer before ``tool_calls``."""

_MAX_CHECKS = 100


class ToolCall:
    """One call; ``number`` counts the calls of its answer from 0, as OpenAI's SDK has to find them."""

    __slots__ = ("_checks", "_parts", "id", "index", "name", "number", "upstream_id")

    def __init__(self, number: int, index: Any = 0, identity: str = "") -> None:
        self.number = number
        self.index = index
        """The upstream's own index of it."""
        self.upstream_id = identity
        self.id = identity or call_id()
        self.name = ""
        self._parts: list[str] = []
        self._checks = 0

    @property
    def arguments(self) -> str:
        """What has come of its arguments, which are JSON text."""
        return "".join(self._parts)

    @property
    def started(self) -> bool:
        """Whether any of its arguments have come: its name is complete then."""
        return bool(self._parts)

    @property
    def complete(self) -> bool:
        """Whether what has come of its arguments is a whole object. It is not looked at for ever: each look costs."""
        if not self._parts or not self._parts[-1].rstrip().endswith("}") or self._checks >= _MAX_CHECKS:
            return False
        self._checks += 1
        return _is_json(self.arguments)

    def add(self, arguments: str) -> None:
        """Adds a part of its arguments."""
        if arguments:
            self._parts.append(arguments)

    def complete_before(self, arguments: str) -> bool:
        """Whether it is complete and ``arguments`` begins another object: ``}{`` continues no JSON."""
        return arguments.startswith("{") and self.complete

    def as_openai(self) -> dict[str, Any]:
        """It as an entry of a message's ``tool_calls``."""
        function = {"name": self.name, "arguments": self.arguments or "{}"}
        return {"id": self.id, "type": "function", "function": function}


class CallFragment(NamedTuple):
    """What a fragment of a stream adds to ``call``; a text is empty where it adds nothing."""

    call: ToolCall
    starts: bool
    """Whether it is the first of its call."""
    name: str
    arguments: str


class ToolCalls:
    """Gathers the calls of one answer from the ``tool_calls`` of its deltas."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self._by_index: dict[Any, ToolCall] = {}
        """The call that a fragment with this index and without an id belongs to."""
        self._by_id: dict[tuple[Any, str], ToolCall] = {}
        self._latest_by_id: dict[str, ToolCall] = {}
        self._ids: set[str] = set()
        self._others: set[Any] = set()
        """The indexes of calls of other kinds, which go on as they are."""

    def add(self, fragments: Any) -> list[CallFragment]:
        """What the ``tool_calls`` of one delta add; what is no call is left out."""
        if isinstance(fragments, list):
            self._others.update(_hashable(item.get("index")) for item in fragments if is_custom(item))
        added: list[CallFragment] = []
        calls: set[ToolCall] = set()
        for item in functions_of(fragments):
            added.append(self._add(item, calls))
            calls.add(added[-1].call)
        return added

    def add_legacy(self, function: Any) -> list[CallFragment]:
        """What the ``function_call`` of one delta adds."""
        return self.add([{"index": LEGACY, "function": function}]) if isinstance(function, dict) else []

    def _add(self, item: dict[str, Any], same_delta: set[ToolCall]) -> CallFragment:
        index, identity, function = item.get("index"), identity_of(item), item["function"]
        name, arguments = string(function.get("name")), arguments_text(function.get("arguments"))
        call = self._call(index, identity, name)
        if call is None or self._is_another(call, item, name, arguments, call in same_delta):
            return self._start(index, identity, name, arguments)
        if identity:
            call.upstream_id = identity
            self._by_id[call.index, identity] = self._latest_by_id[identity] = call
        self._by_index[call.index] = call
        if call.complete_before(arguments) and call.arguments == arguments:
            arguments = ""  # the whole call once more
        name = name[len(call.name) :] if name.startswith(call.name) else name
        call.name += name
        call.add(arguments)
        return CallFragment(call, False, name, arguments)

    def _call(self, index: Any, identity: str, name: str) -> ToolCall | None:
        """The call that a fragment names, if there is one already."""
        if index is not None:
            index = _hashable(index)
            call = self._by_id.get((index, identity)) or self._by_index.get(index)
            if call is not None or name:
                return call
        if identity:
            call = self._latest_by_id.get(identity)
            if call is not None or name:
                return call
        return self.calls[-1] if self.calls else None

    @staticmethod
    def _is_another(call: ToolCall, item: dict[str, Any], name: str, arguments: str, same_delta: bool) -> bool:
        """Whether a fragment that names ``call`` begins another one nevertheless."""
        identity = identity_of(item)
        if identity and call.upstream_id and identity != call.upstream_id:
            # Some vLLM versions give each fragment a new id; a call of its own has a name.
            return bool(name) or not call.name or call.complete_before(arguments)
        if not name or not call.name:
            return False
        if same_delta and not identity:
            return True
        if name != call.name and (call.started or (item.get("index") is None and not name.startswith(call.name))):
            return True
        return call.complete_before(arguments) and call.arguments != arguments

    def _start(self, index: Any, identity: str, name: str, arguments: str) -> CallFragment:
        number = len(self.calls) + len(self._others)
        call = ToolCall(number, number if index is None else _hashable(index), identity)
        if call.id in self._ids:
            call.id = call_id()
        call.name = name
        call.add(arguments)
        self.calls.append(call)
        self._ids.add(call.id)
        self._by_index[call.index] = call
        if identity:
            self._by_id[call.index, identity] = self._latest_by_id[identity] = call
        return CallFragment(call, True, name, arguments)


def whole_calls(message: dict[str, Any]) -> list[ToolCall]:
    """The calls of a whole message: each entry is one, whatever its index and id. Also the legacy one."""
    calls: list[ToolCall] = []
    ids: set[str] = set()
    entries = functions_of(message.get("tool_calls")) or functions_of([{"function": message.get(LEGACY)}])
    for item in entries:
        identity = identity_of(item)
        call = ToolCall(len(calls), identity="" if identity in ids else identity)
        call.name = string(item["function"].get("name"))
        call.add(arguments_text(item["function"].get("arguments"), empty="{}"))
        ids.add(call.id)
        calls.append(call)
    return calls


def functions_of(calls: Any) -> list[dict[str, Any]]:
    """The entries of ``tool_calls`` that hold a function; some servers send one call without its list."""
    add_functions(calls)
    entries = calls if isinstance(calls, list) else [calls]
    return [call for call in entries if isinstance(call, dict) and isinstance(call.get("function"), dict)]


def add_functions(calls: Any) -> bool:
    """Gives each of ``calls`` that has ``name`` and ``arguments`` beside its id a ``function`` of them, in place.

    Tells whether there was one.
    """
    changed = False
    for call in calls if isinstance(calls, list) else [calls]:
        if isinstance(call, dict) and call.get("function") is None and isinstance(call.get("name"), str):
            call["function"] = {"name": call.pop("name"), "arguments": call.pop("arguments", None)}
            changed = True
    return changed


def is_custom(call: Any) -> bool:
    """Whether ``call`` is one of OpenAI's custom tools, whose input is no JSON."""
    return isinstance(call, dict) and isinstance(call.get("custom"), dict)


def identity_of(call: dict[str, Any]) -> str:
    """The id of a call as text, which some servers send as a number; empty if it has none."""
    identity = call.get("id")
    return str(identity) if isinstance(identity, str | int) else ""


def arguments_text(arguments: Any, empty: str = "") -> str:
    """``arguments`` as JSON text, which is how OpenAI's wire has them; ``empty`` where there are none."""
    if isinstance(arguments, str):
        return arguments or empty
    return empty if arguments is None else orjson.dumps(arguments).decode()


def with_arguments_text(call: Any) -> Any:
    """A call of an earlier message, for vendors that take its arguments as JSON text alone."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": arguments_text(function.get("arguments"), empty="{}")}}


def arguments_object(arguments: Any) -> dict[str, Any] | None:
    """``arguments`` as an object, also if they are JSON text, even one that was encoded twice; ``None`` if they are
    no object."""
    for _ in range(2):
        if not isinstance(arguments, str):
            break
        try:
            arguments = lenient_json.read(arguments) if arguments.strip() else {}
        except ValueError:
            return None
    if arguments is None:
        return {}
    return arguments if isinstance(arguments, dict) else None


def call_id() -> str:
    """A new id, for a call to which the upstream gave none."""
    return f"call_{secrets.token_hex(12)}"


def _hashable(index: Any) -> Any:
    return index if isinstance(index, int | float | str) else 0


def _is_json(text: str) -> bool:
    try:
        lenient_json.read(text)
    except ValueError:
        return False
    return True
