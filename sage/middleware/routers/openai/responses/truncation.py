"""``truncation: auto``: the oldest messages go until a chat fits into its model's context, where that is known."""

from __future__ import annotations

from typing import Any

from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.usage.estimates import estimate_prompt

_FOR_ANSWER = 512
"""Tokens that are left for an answer without a bound."""


def context_of(model: PublicModel) -> int | None:
    """The smallest context of those that may answer for ``model``; ``None`` means that none is known."""
    known = [each.provider.context(each.model) for each in model.deployments]
    return min((size for size in known if size is not None), default=None)


def truncate(chat: dict[str, Any], context: int) -> None:
    """Takes the oldest messages out of ``chat`` until it is estimated to fit into ``context`` tokens, with its answer.

    The system's words and the last message of the user with what follows it stay; answers of tools go with their calls.
    """
    room = context - (chat.get("max_tokens") or _FOR_ANSWER)
    messages: list[dict[str, Any]] = chat["messages"]
    first = 1 if messages[0]["role"] == "system" else 0
    last = max((place for place, each in enumerate(messages) if each["role"] == "user"), default=len(messages) - 1)
    costs = [estimate_prompt({"messages": [each]}, None) for each in messages]
    rest = {name: value for name, value in chat.items() if name != "messages"}
    total, start = sum(costs) + (estimate_prompt(rest, None) if "tools" in rest else 0), first
    while total > room and start < last:
        total -= costs[start]
        start += 1
        while start < last and messages[start]["role"] == "tool":
            total -= costs[start]
            start += 1
    chat["messages"] = messages[:first] + messages[start:]
