"""Fields that multiply an upstream's work, known by their names: whatever a server calls them, each has a bound."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.settings.settings import RequestLimits

MAX_LOGPROBS = 20
"""Alternatives of a token that an answer may list: OpenAI's own bound."""
MAX_ENTRIES = 1024
"""Of a list or an object that is no content: ``logit_bias``, ``tools``, ``allowed_token_ids``…"""
MAX_STOPS = 64
MAX_STOP_LENGTH = 1024
"""Characters."""
_MAX_THREADS = 256
_MAX_PIXELS = 2**25
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_NUMBER = re.compile(r"\s*[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?\s*", re.I)
"""As text; some servers read numbers from it."""

# Words of a field's name. `beam_width` and `numBeams` count answers, `thinking.budget_tokens` and `num_ctx` tokens.
_ANSWERS = frozenset(
    {"beam", "beams", "candidate", "candidates", "choices", "completions", "generations", "hypotheses", "samples"}
    | {"sequences", "responses", "outputs", "branches", "variants", "cmpl"}
)
_LOGPROBS = frozenset({"logprobs", "logprob", "probs"})
_PIXELS = frozenset({"pixels"})
_THREADS = frozenset({"thread", "threads", "workers", "fps"})
_AMOUNTS = frozenset(
    {"batch", "budget", "context", "count", "ctx", "depth", "dimension", "dimensions", "draft", "iterations", "keep"}
    | {"last", "length", "limit", "lookahead", "max", "min", "n", "ngram", "num", "number", "predict", "rounds", "size"}
    | {"steps", "token", "tokens", "turns", "ubatch", "width", "window", "frames", "nframes", "resolution", "k", "top"}
)
_IDENTITIES = frozenset({"id", "ids", "seed", "type", "time", "timeout", "price", "ms", "age", "at", "p"})
"""A name with one of these says no amount, whatever else is in it."""
_WORDS = frozenset(
    {"bad_words", "banned_strings", "banned_tokens", "bad_words_ids", "force_words", "guided_choice", "choice"}
    | {"dry_sequence_breakers", "sequence_breakers", "logit_bias", "labels", "preserved_tokens"}
)

Bound = Callable[[RequestLimits], int]


@lru_cache(maxsize=1024)
def _bound(name: str) -> Bound | None:
    """The most that a number under ``name`` may be; ``None`` means that the name says no amount."""
    words = {word.lower() for word in _WORD.findall(name)}
    if words & _LOGPROBS or name == "top_n_tokens":
        return lambda limits: MAX_LOGPROBS
    if words & _IDENTITIES:
        return None
    if name in ("n", "best_of") or words & _ANSWERS:
        return lambda limits: limits.max_choices
    if words & _PIXELS:
        return lambda limits: _MAX_PIXELS
    if words & _THREADS:
        return lambda limits: _MAX_THREADS
    return (lambda limits: limits.max_tokens) if words & _AMOUNTS else None


def check_number(value: float, where: str, name: str, limits: RequestLimits) -> None:
    """Raises :class:`InvalidRequest` for a number that is beyond what ``name`` may ask for."""
    limit = _bound(name) if len(name) <= 64 else None
    if limit is None:
        return
    most = limit(limits)
    least = 0 if most == MAX_LOGPROBS else -most
    if not least <= value <= most:
        bound = f"{most} at most" if value > most else f"{least} at least"
        raise InvalidRequest(f"'{where}' must be {bound}, not {_shown(value)}", param=where)


def check_number_in_text(text: str, where: str, name: str, limits: RequestLimits) -> None:
    """Checks what a server might read as a number."""
    if len(text) <= 400 and not text.isalpha() and _NUMBER.fullmatch(text) is not None:
        check_number(float(text), where, name, limits)


def holds_words(name: str) -> bool:
    """Whether texts under ``name`` are words to look for in an answer, such as ``</s>``, never addresses."""
    return name.startswith("stop") or name in _WORDS


def check_entries(value: list[Any] | dict[str, Any], where: str, name: str) -> None:
    """Raises :class:`InvalidRequest` for a list or an object, no content of the request, that has too many entries."""
    is_stop = name.startswith("stop")
    most = MAX_STOPS if is_stop else MAX_ENTRIES
    if len(value) > most:
        raise InvalidRequest(f"'{where}' may hold {most} entries, not {len(value)}", param=where)
    if is_stop:
        for stop in value:
            check_word(stop, where)


def check_word(word: Any, where: str) -> None:
    """Raises :class:`InvalidRequest` for a stop word that is too long."""
    if isinstance(word, str) and len(word) > MAX_STOP_LENGTH:
        raise InvalidRequest(f"'{where}' may hold texts of {MAX_STOP_LENGTH} characters at most", param=where)


def _shown(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) if abs(value) < 10**20 else "a longer number"
