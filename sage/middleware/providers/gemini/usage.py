"""Tokens as Google counts them: thoughts are not among the answer's, nor a tool's results among the prompt's.

Source: Google's API reference (``UsageMetadata``).
"""

from __future__ import annotations

from typing import Any

from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.json_values import objects
from sage.middleware.providers.wire.sse import count

_MODALITIES = {"AUDIO": "audio_tokens", "IMAGE": "image_tokens"}
"""Those that have prices of their own."""


def read_usage(reported: Any) -> Usage | None:
    """The tokens in a ``usageMetadata``, with OpenAI's ``usage`` as :attr:`Usage.reported`."""
    if not isinstance(reported, dict):
        return None
    prompt = count(reported.get("promptTokenCount")) + count(reported.get("toolUsePromptTokenCount"))
    thoughts = count(reported.get("thoughtsTokenCount"))
    answer = count(reported.get("candidatesTokenCount")) + thoughts
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }
    of_prompt = _by_modality(reported.get("promptTokensDetails"))
    if reported.get("cachedContentTokenCount") is not None:
        of_prompt["cached_tokens"] = count(reported["cachedContentTokenCount"])
    of_answer = _by_modality(reported.get("candidatesTokensDetails"))
    if thoughts:
        of_answer["reasoning_tokens"] = thoughts
    if of_prompt:
        counts["prompt_tokens_details"] = of_prompt
    if of_answer:
        counts["completion_tokens_details"] = of_answer
    return Usage(prompt, answer, counts)


def _by_modality(details: Any) -> dict[str, int]:
    return {
        _MODALITIES[entry["modality"]]: count(entry.get("tokenCount"))
        for entry in objects(details)
        if isinstance(entry.get("modality"), str) and entry["modality"] in _MODALITIES
    }
