"""What upstreams report of a call beyond two numbers of tokens, as far as it has a price of its own.

Sources: OpenAI's API reference (``usage`` of chat completions, responses, transcriptions and images), Mistral's
(transcriptions), Anthropic's (messages), Cohere's (``billed_units``), DeepSeek's
and Moonshot's (names of their own for cached tokens).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from sage.middleware.settings.usage import UNMEASURED

_MOST = 10**12
_PLAIN = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_OF_PROMPT = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OF_ANSWER = ("completion_tokens_details", "output_tokens_details")
_PROMPT_UNITS = (
    ("audio_tokens", "input_audio_tokens"),
    ("image_tokens", "input_image_tokens"),
    ("cache_write_tokens", "cache_write_tokens"),
    ("cache_creation_tokens", "cache_write_tokens"),  # ours, for Anthropic's
)
_ANSWER_UNITS = (("audio_tokens", "output_audio_tokens"), ("image_tokens", "output_image_tokens"))
"""What OpenAI's wire has in those objects, and genai-prices' names for it."""
_CACHED = (
    "prompt_cache_hit_tokens",  # DeepSeek
    "cached_tokens",  # Moonshot, Cohere
    "cache_read_input_tokens",  # Anthropic
)
_SECONDS = ("seconds", "prompt_audio_seconds")
"""Of a recording, at OpenAI and at Mistral."""
_ELSEWHERE = frozenset({*_CACHED, *_SECONDS, "cache_creation_input_tokens", "server_tool_use", "billed_units"})


def token_details(usage: Mapping[str, Any]) -> tuple[int, int, dict[str, int] | None]:
    """Cached tokens of the prompt, tokens of reasoning, and other units that may have a price, in a ``usage`` object of
    any vendor, or in Cohere's ``meta``."""
    if _PLAIN.issuperset(usage):
        return 0, 0, None
    prompts, answers = _objects(usage, _OF_PROMPT), _objects(usage, _OF_ANSWER)
    cached = _count(prompts[0], "cached_tokens") if prompts else 0
    reasoning = _count(answers[0], "reasoning_tokens") or _count(answers[0], "thinking_tokens") if answers else 0
    units: dict[str, int] = {}
    for places, names in ((prompts, _PROMPT_UNITS), (answers, _ANSWER_UNITS)):
        for place in places:
            units.update((unit, count) for name, unit in names if name in place and (count := _count(place, name)))
    if not _ELSEWHERE.isdisjoint(usage):
        cached = cached or next(filter(None, (_count(usage, name) for name in _CACHED)), 0)
        units.update(_written(usage))
        units.update(_billed(usage))
        units.update(_recorded(usage))
    return cached, reasoning, units or None


def _written(usage: Mapping[str, Any]) -> dict[str, int]:
    """What Anthropic has put in its cache, where an hour costs more than minutes, and its searches."""
    counts = {
        "cache_write_tokens": _count(usage, "cache_creation_input_tokens"),
        "cache_write_1h_tokens": _count(_object(usage, "cache_creation"), "ephemeral_1h_input_tokens"),
        "web_searches": _count(_object(usage, "server_tool_use"), "web_search_requests"),
    }
    return {unit: count for unit, count in counts.items() if count}


def _billed(usage: Mapping[str, Any]) -> dict[str, int]:
    """What Cohere bills, where it says that: fewer tokens than it used, and a reranker's searches."""
    billed = _object(usage, "billed_units")
    names = {
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
        "search_units": "rerank_searches",
    }
    return {unit: _count(billed, name) for name, unit in names.items() if billed.get(name) is not None}


def _recorded(usage: Mapping[str, Any]) -> dict[str, int]:
    """The seconds of a recording, the last one counted fully; where they are all that is told, no tokens are."""
    told = [value for name in _SECONDS if _is_number(value := usage.get(name))]
    if not told:
        return {}
    seconds = {"input_audio_seconds": math.ceil(max(told))}
    return {**seconds, UNMEASURED: 1} if "seconds" in usage else seconds


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and 0 < value < _MOST


def _objects(usage: Mapping[str, Any], names: tuple[str, ...]) -> list[Mapping[str, Any]]:
    return [value for name in names if (value := usage.get(name)) and isinstance(value, dict)]


def _object(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = usage.get(name)
    return value if isinstance(value, dict) else {}


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return int(min(value, _MOST)) if isinstance(value, int | float) and value > 0 else 0
