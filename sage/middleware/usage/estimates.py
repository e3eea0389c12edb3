"""About how many tokens a request and its answer have, where no upstream has counted them.

Text counts as a token for each four bytes of UTF-8, which is close for English, and for Chinese within a third of what
current tokenizers make of it. Nothing here asks a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sage.middleware.usage.media_tokens import MEDIA, media_tokens

_BYTES = 4
_EACH_MESSAGE = 4
"""Tokens for the role of a message and what separates it from the next."""
_TEXTS = frozenset(
    {"prompt", "query", "text_1", "text_2", "input", "messages", "documents", "tools", "functions", "texts", "inputs"}
)


def estimate_prompt(body: Mapping[str, Any], text_size: int | None = None) -> int:
    """About how many tokens the request in ``body`` has, in OpenAI's shape; at least 1. ``text_size``: the bytes of its
    messages, where these are a role and a text each and were measured before."""
    if "tools" not in body and "messages" in body:
        if text_size is None:
            text_size = size_of_texts(body["messages"])
        if text_size is not None:
            return _EACH_MESSAGE * len(body["messages"]) - (-text_size // _BYTES) or 1
    size = tokens = 0
    for field, value in body.items():
        if field == "messages" and isinstance(value, list):
            tokens += _EACH_MESSAGE * len(value)
        if field in _TEXTS:
            more, others = _measure(value)
            size += more
            tokens += others
    return max(1, tokens + -(-size // _BYTES))


def size_of_texts(messages: Any) -> int | None:
    """The bytes of text of messages of a text and at most a role each; ``None`` for others."""
    size = 0
    try:
        for message in messages:
            size += len(message["content"].encode())
            if len(message) > 2:
                return None
    except (TypeError, KeyError, AttributeError, UnicodeEncodeError):
        return None
    return size


def upper_bound_prompt(body: Mapping[str, Any]) -> int:
    """A number of tokens that the request surely does not exceed: a byte of text is a token at most. Of images and
    sounds it is what :func:`~sage.middleware.usage.media_tokens.media_tokens` says; some models take more."""
    size = tokens = 0
    for value in body.values():
        more, others = _measure(value, most=True)
        size += more
        tokens += others
    return size + tokens + 16


def estimate_stream(first: bytes, passed: int, last: bytes) -> int:
    """About how many tokens of a stream were sent: its ``first`` events, and then ``passed`` bytes, of which ``last``
    are the end. An event with text is a token at least, and more where its text is long."""
    if not passed:
        return _tokens_of(first)
    sample = last if len(last) >= len(first) or _tokens_of(last) else first
    tokens = _tokens_of(sample)
    return _tokens_of(first) + max(round(tokens * passed / len(sample)), 1 if tokens else 0)


def _tokens_of(events: bytes) -> int:
    tokens = 0
    for event in events.split(b"\n\n"):
        try:
            chunk = orjson.loads(event.partition(b"data:")[2])
        except orjson.JSONDecodeError:
            continue
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        texts = [choice.get("delta") or choice.get("text") for choice in choices or () if isinstance(choice, dict)]
        size, _ = _measure(texts)
        tokens += -(-size // _BYTES)
    return tokens


def answer_tokens(body: bytes) -> int:
    """About how many tokens a whole answer of OpenAI's shape has; 0 for one that generates nothing."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return 0
    choices = answer.get("choices") if isinstance(answer, dict) else None
    size, _ = _measure([choice.get("message") or choice.get("text") for choice in choices or () if choice])
    return -(-size // _BYTES)


def text_tokens(text: str) -> int:
    """About how many tokens ``text`` has."""
    return -(-_size(text) // _BYTES)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _measure(value: Any, *, most: bool = False) -> tuple[int, int]:
    """The bytes of text in ``value``, and the tokens of what is no text, or how many these are at ``most``."""
    size = tokens = 0
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += _size(value)
        elif isinstance(value, dict):
            for field, inner in value.items():
                if field in MEDIA:
                    tokens += media_tokens(field, inner)[most]
                elif field != "role" and field != "type":
                    waiting.append(inner)
        elif isinstance(value, list):
            if value and type(value[0]) is int:  # the numbers of tokens
                tokens += len(value)
            else:
                waiting.extend(value)
    return size, tokens
