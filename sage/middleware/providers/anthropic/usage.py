"""Tokens as Anthropic counts them: those from its cache, and those put there, are not among ``input_tokens``.

Source: Anthropic's API reference, *Messages* (``usage``), and its guide on prompt caching.
"""

from __future__ import annotations

from typing import Any

from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.chunks import usage_object
from sage.middleware.providers.wire.sse import count, read_usage


class MessageCounts:
    """The usage of a stream: of the question in its first event, of the answer in ``message_delta``."""

    def __init__(self) -> None:
        self._reported: dict[str, Any] = {}

    def add(self, reported: Any) -> Usage | None:
        """What is known with ``reported``, whose counts stand for all of the answer so far."""
        if isinstance(reported, dict):
            self._reported.update((name, value) for name, value in reported.items() if value is not None)
        return read_usage(self._reported) if self._reported else None


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's ``usage``, in which cached tokens are among those of the prompt."""
    counts: dict[str, Any] = dict(usage_object(usage))
    reported = usage.reported or {}
    details = {
        "cached_tokens": count(reported.get("cache_read_input_tokens")),
        "cache_creation_tokens": count(reported.get("cache_creation_input_tokens")),
    }
    if any(details.values()):
        counts["prompt_tokens_details"] = details
    answer = reported.get("output_tokens_details")
    if isinstance(answer, dict) and answer.get("thinking_tokens") is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": count(answer["thinking_tokens"])}
    return counts
