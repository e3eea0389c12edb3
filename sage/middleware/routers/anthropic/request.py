"""A request of Anthropic's Messages as OpenAI's chat: pure functions.

Source: Anthropic's API reference (*Messages*: create, count tokens; also the fields of its betas).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from sage.errors import InvalidRequest
from sage.middleware.routers.anthropic.blocks import BlockReader, Foreign
from sage.middleware.routers.anthropic.tools import add_choice, functions

_LONGEST_USER = 64
"""Characters of a user's id that OpenAI takes."""
_OPTIONS = frozenset(
    {"tools", "tool_choice", "stop_sequences", "metadata", "thinking", "service_tier", "output_config", "output_format"}
)
_SAME = frozenset({"model", "messages", "stream", "max_tokens", "temperature", "top_p", "top_k"})
"""Fields that have the same name and meaning in a chat, once the messages are translated."""
_SPEAKERS = ("user", "assistant", "system")
_LEFT_OUT = frozenset(
    {"cache_control", "context_management", "compaction", "diagnostics", "speed", "user_profile_id", "betas"}
    | {"billing_policy", "fallbacks", "fallback_credit_token"}
)
"""Fields that only Anthropic has, and without which the answer is one to the same question."""
_FOREIGN = frozenset({"container", "mcp_servers", "inference_geo", "thread"})
"""Fields that only Anthropic has, and that others cannot leave out: the caller relies on them."""
_NOT_HERE = {
    "stop": "it is 'stop_sequences' here",
    "response_format": "it is 'output_config.format' here",
    "n": "an answer here is one message",
    "functions": "it is 'tools' here",
    "function_call": "it is 'tool_choice' here",
    "stream_options": "streams here always end with the usage",
}
"""Fields of OpenAI's chat that have another name here, or none."""
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BUDGETS = ((4096, "low"), (16384, "medium"))
"""Thinking tokens, and the effort that stands for as many at most; more are ``high``."""


class ChatRequest(NamedTuple):
    """The same request in OpenAI's shape."""

    body: dict[str, Any]
    effort: str | None
    """How much the model is to think, where it can; ``None`` means as it likes."""
    foreign: Foreign | None
    """The first thing that it asks and only Anthropic can do."""


def chat_request(body: Mapping[str, Any], *, marks: bool = True, bounded: bool = True) -> ChatRequest:
    """The chat for ``body``. ``marks`` as in :class:`BlockReader`; ``bounded`` says that ``max_tokens`` must be there.

    Raises :class:`InvalidRequest`, naming the field, for what is not of Anthropic's shape.
    """
    reader = BlockReader(marks=marks)
    chat: dict[str, Any] = {**body, "messages": _messages(body, reader)}
    chat.pop("system", None)  # it is a message
    if None in chat.values():
        chat = {field: value for field, value in chat.items() if value is not None}
    if not _SAME.issuperset(chat):
        for field in [field for field in chat if field not in _SAME]:
            value = chat.pop(field)
            if field not in _OPTIONS:
                _add_other(chat, field, value, reader)
    if bounded and "max_tokens" not in chat:
        raise InvalidRequest("'max_tokens' is needed: how many tokens the answer may have", param="max_tokens")
    effort = None
    if not _OPTIONS.isdisjoint(body):
        _add_tools(chat, body, reader, marks)
        _add_stops(chat, body.get("stop_sequences"))
        _add_user(chat, body.get("metadata"))
        if body.get("service_tier") == "standard_only":
            chat["service_tier"] = "default"
        effort = _effort(body)
        _add_format(chat, body)
    return ChatRequest(chat, effort, reader.foreign)


def _add_other(chat: dict[str, Any], field: str, value: Any, reader: BlockReader) -> None:
    """Adds a field that is not among the usual ones, unless only Anthropic has it."""
    if field in _LEFT_OUT:
        return
    if field in _FOREIGN:
        if value:
            reader.note_foreign(field, field)
    elif field in _NOT_HERE:
        raise InvalidRequest(f"'{field}' is no field of Messages: {_NOT_HERE[field]}", param=field)
    else:
        chat[field] = value


def _messages(body: Mapping[str, Any], reader: BlockReader) -> list[dict[str, Any]]:
    system = body.get("system")
    messages = [reader.system(system, "system")] if system is not None and system != [] else []
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise InvalidRequest("'messages' must be a list with at least one message", param="messages")
    for index, message in enumerate(given):
        role = message.get("role") if type(message) is dict else None
        if role not in _SPEAKERS:
            where = f"messages[{index}]"
            raise InvalidRequest(f"{where} must be an object whose 'role' is user or assistant", param=where)
        content = message.get("content")
        if type(content) is str:  # most are
            messages.append({"role": role, "content": content})
        elif role == "user":
            messages += reader.user(content, f"messages[{index}].content")
        elif role == "assistant":
            messages.append(reader.assistant(content, f"messages[{index}].content"))
        else:
            messages.append(reader.system(content, f"messages[{index}].content"))
    return messages


def _add_tools(chat: dict[str, Any], body: Mapping[str, Any], reader: BlockReader, marks: bool) -> None:
    tools = body.get("tools")
    if tools is not None and tools != []:
        chat["tools"] = functions(tools, reader, marks=marks)
    choice = body.get("tool_choice")
    if choice is not None:
        add_choice(chat, choice)
        if "tools" not in chat:  # others refuse a choice among no tools
            chat.pop("tool_choice", None)
            chat.pop("parallel_tool_calls", None)


def _add_stops(chat: dict[str, Any], stops: Any) -> None:
    if stops is None or stops == []:
        return
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("'stop_sequences' must be a list of texts", param="stop_sequences")
    chat["stop"] = stops


def _add_user(chat: dict[str, Any], metadata: Any) -> None:
    """Adds the user's id; a longer one than OpenAI takes goes on as its SHA-256."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise InvalidRequest("'metadata' must be an object", param="metadata")
    user = metadata.get("user_id")
    if user is None:
        return
    if not isinstance(user, str):
        raise InvalidRequest("metadata.user_id must be text", param="metadata.user_id")
    long = len(user) > _LONGEST_USER
    chat["user"] = sha256(user.encode("utf-8", "surrogatepass")).hexdigest() if long else user


def _effort(body: Mapping[str, Any]) -> str | None:
    """How much to think: ``output_config.effort``, or what a budget of tokens stands for; ``none`` is not at all."""
    config = _object(body, "output_config")
    thinking = _object(body, "thinking")
    kind = thinking.get("type") if thinking else None
    if kind == "disabled":
        return "none"
    if kind not in (None, "enabled", "adaptive", "between_tools"):
        raise InvalidRequest("thinking.type must be enabled, adaptive or disabled", param="thinking.type")
    if thinking and kind is None:
        raise InvalidRequest("thinking.type is missing", param="thinking.type")
    effort = config.get("effort")
    if effort is not None:
        if effort not in _EFFORTS:
            raise InvalidRequest(f"output_config.effort is none of {', '.join(_EFFORTS)}", param="output_config.effort")
        return str(effort)
    if kind != "enabled":
        return None
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < 1:
        where = "thinking.budget_tokens"
        raise InvalidRequest(f"{where} must be a whole number from 1", param=where)
    return next((name for most, name in _BUDGETS if budget <= most), "high")


def _add_format(chat: dict[str, Any], body: Mapping[str, Any]) -> None:
    """Adds the schema that the answer has to follow."""
    where = "output_config.format" if body.get("output_format") is None else "output_format"
    form = _object(body, "output_config").get("format") if body.get("output_format") is None else body["output_format"]
    if form is None:
        return
    schema = form.get("schema") if isinstance(form, dict) and form.get("type") == "json_schema" else None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{where} must have the type json_schema and a 'schema'", param=where)
    json_schema = {"name": "answer", "schema": schema, "strict": True}
    chat["response_format"] = {"type": "json_schema", "json_schema": json_schema}


def _object(body: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"'{field}' must be an object", param=field)
    return value
