"""Chat requests in OpenAI's shape as Anthropic's: pure functions.

Source: Anthropic's API reference, *Messages* and *Count tokens*; its guides on extended thinking and effort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InvalidRequest, Unsupported
from sage.middleware.providers.anthropic.conversation import conversation
from sage.middleware.providers.anthropic.models import ModelFacts, facts_of
from sage.middleware.providers.anthropic.parts import Refuse
from sage.middleware.providers.anthropic.tools import add_form, add_tools
from sage.middleware.providers.vendor import HINTS, has_effect
from sage.middleware.providers.wire.json_values import objects

_SAME = frozenset({"thinking", "stop_sequences", "cache_control", "container", "context_management", "inference_geo"})
"""Anthropic's own fields, which chats may have as well. ``output_config`` is another."""
_TRANSLATED_APART = frozenset(
    {"messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "models"}
    | {"max_tokens", "max_completion_tokens", "output_config", "temperature", "top_p", "top_k"}
)
COUNTED = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control", "speed"}
)
"""The fields of a request whose tokens are counted."""
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_000, "max": 32_000}
"""Tokens of thinking for an effort, where a model is told tokens."""
_LEAST_BUDGET = 1024
_LONGEST_USER = 256


def messages_body(chat: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Anthropic's request for a chat, as :func:`messages_request` makes it for ``model`` by itself."""

    def refuse(field: str, why: str) -> None:
        raise Unsupported(f"Anthropic does not support '{field}'{why}", param=field)

    facts = facts_of(model)
    return messages_request(chat, model, facts, refuse, facts.max_tokens, stream=bool(chat.get("stream")))


def messages_request(
    body: Mapping[str, Any], model: str, facts: ModelFacts, refuse: Refuse, default: int, *, stream: bool
) -> dict[str, Any]:
    """Anthropic's request for OpenAI's ``body``; ``default`` is ``max_tokens`` for one that has none."""
    system, messages = conversation(body["messages"], refuse)
    if not messages:
        raise InvalidRequest("'messages' must hold a message of the user", param="messages")
    bound = body.get("max_completion_tokens") or body.get("max_tokens")
    sent: dict[str, Any] = {"model": model, "max_tokens": bound or default, "messages": messages}
    if system:
        sent["system"] = system
    if stream:
        sent["stream"] = True
    if isinstance(body.get("output_config"), dict):
        sent["output_config"] = dict(body["output_config"])
    for field, value in body.items():
        if value is None or field in _TRANSLATED_APART or (field in HINTS and field not in _TRANSLATED):
            continue
        if field in _SAME:
            if field == "thinking" and not isinstance(value, dict):
                raise InvalidRequest("'thinking' must be an object with a 'type'", param="thinking")
            sent[field] = value
        elif field in _TRANSLATED:
            _TRANSLATED[field](sent, value)
        elif has_effect(field, value):
            refuse(field, "")
    add_tools(sent, body, facts, refuse)
    add_form(sent, body, facts, refuse)
    _add_effort(sent, body.get("reasoning_effort"), facts, refuse)
    _add_sampling(sent, body, facts, refuse)
    return sent


def _stop(sent: dict[str, Any], value: Any) -> None:
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list):
        stops = [stop for stop in stops if not (isinstance(stop, str) and not stop.strip())]  # refused there
    if stops:
        sent["stop_sequences"] = stops


def _user(sent: dict[str, Any], value: Any) -> None:
    """The caller's name for its user, which Anthropic has among the metadata."""
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_USER:
        sent.setdefault("metadata", {})["user_id"] = value


_TRANSLATED: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "stop": _stop,
    "user": _user,
    "safety_identifier": _user,
}


def _add_effort(sent: dict[str, Any], effort: Any, facts: ModelFacts, refuse: Refuse) -> None:
    """Adds how much the model is to think, unless the request has Anthropic's own words for it."""
    if effort is None or "thinking" in sent:
        return
    if not isinstance(effort, str) or (effort != "none" and effort not in _BUDGETS):
        raise InvalidRequest(f"'reasoning_effort' must be one of none, {', '.join(_BUDGETS)}", param="reasoning_effort")
    if effort == "none":
        if not facts.may_not_think:
            refuse("reasoning_effort", " 'none' for this model, which always thinks")
        elif facts.thinking == "adaptive":
            sent["thinking"] = {"type": "disabled"}
        return
    if facts.thinking == "never":
        refuse("reasoning_effort", " for this model")
        return
    if facts.efforts:
        sent.setdefault("output_config", {}).setdefault("effort", _effort(effort, facts.efforts))
    if sent.get("tool_choice", {}).get("type") in ("any", "tool"):
        return  # no model thinks before a call that it is forced to make
    if facts.thinking == "adaptive":
        sent["thinking"] = {"type": "adaptive"} | ({} if facts.shows_thinking else {"display": "summarized"})
        return
    budget = min(_BUDGETS[effort], sent["max_tokens"] - 1)
    if budget >= _LEAST_BUDGET and not _lacks_thoughts(sent["messages"]):
        sent["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _effort(effort: str, efforts: tuple[str, ...]) -> str:
    """The greatest of ``efforts`` that is not above ``effort``."""
    order = list(_BUDGETS)
    return next((each for each in reversed(efforts) if order.index(each) <= order.index(effort)), efforts[0])


def _lacks_thoughts(messages: list[dict[str, Any]]) -> bool:
    """Whether the model's running turn has called a tool without the thoughts before it: then it may not think.

    So it is where a client does not send ``thinking_blocks`` back.
    """
    for message in reversed(messages):
        blocks = objects(message["content"])
        if message["role"] == "assistant":
            calls = any(block["type"] == "tool_use" for block in blocks)
            return calls and blocks[0]["type"] not in ("thinking", "redacted_thinking")
        if not any(block["type"] == "tool_result" for block in blocks):
            return False
    return False


def _add_sampling(sent: dict[str, Any], body: Mapping[str, Any], facts: ModelFacts, refuse: Refuse) -> None:
    """Adds ``temperature``, ``top_p`` and ``top_k``, as far as the model takes them and they change anything."""
    thinks = sent.get("thinking", {}).get("type") == "enabled"
    why = " for this model" if not facts.takes_sampling else " while it thinks (reasoning_effort)"
    temperature, top_p, top_k = body.get("temperature"), body.get("top_p"), body.get("top_k")
    if isinstance(temperature, int | float) and temperature > 1:
        refuse("temperature", " above 1")
        temperature = None
    for field, value, neutral in (("temperature", temperature, 1), ("top_p", top_p, 1), ("top_k", top_k, -1)):
        if value is None or value == neutral:
            continue
        if thinks or not facts.takes_sampling:
            refuse(field, why)
        else:
            sent[field] = value
