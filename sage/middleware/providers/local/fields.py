"""The fields that llama.cpp gets of a request, and their bounds: what it does not need never reaches it.

A number there can take all memory (``dry_penalty_last_n`` is the length of a buffer), and a grammar all time, since
llama.cpp notices only between two tokens that nobody waits any more. What was found to do so has a bound here.

Source: llama.cpp, ``tools/server/README.md``, ``common/json-schema-to-grammar.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.regex_size import written_out
from sage.middleware.providers.vendor import HINTS

_CONTENT = frozenset(
    {"model", "messages", "prompt", "stream", "stream_options", "tools", "response_format", "json_schema"}
)
_SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "seed"}
    | {"dynatemp_range", "dynatemp_exponent", "repeat_last_n", "repeat_penalty", "presence_penalty", "samplers"}
    | {"frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "logit_bias"}
    | {"dry_sequence_breakers", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"}
    | {"min_keep", "stop", "ignore_eos"}
)
_ANSWER = frozenset(
    {"max_tokens", "max_completion_tokens", "n_predict", "n_keep", "n", "n_cmpl", "logprobs", "top_logprobs", "n_probs"}
    | {"post_sampling_probs", "return_tokens", "return_progress", "timings_per_token", "cache_prompt"}
    | {"t_max_predict_ms", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"}
    | {"reasoning_format", "thinking_forced_open", "reasoning_budget", "thinking_budget_tokens"}
)
_ALLOWED = _CONTENT | _SAMPLING | _ANSWER
# What Ollama's clients put into `options` about loading a model: here that is the configuration's matter.
_LOADING = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "use_mmap", "use_mlock", "f16_kv"}
    | {"vocab_only", "logits_all", "embedding_only", "rope_frequency_base", "rope_frequency_scale", "penalize_newline"}
)
_OLLAMA_NAMES = {"num_keep": "n_keep"}

_WITHIN_CONTEXT = ("repeat_last_n", "dry_penalty_last_n", "n_keep", "dry_allowed_length", "min_keep")
_MAX_LISTED = {"samplers": 16, "dry_sequence_breakers": 16}
_MAX_LISTED_LENGTH = 64
"""Characters of one entry."""
_MAX_SCHEMA = 1024
"""Keys and items of a schema; the time of each token grows faster than they do."""
_MAX_TOOL_SCHEMAS = 16 * _MAX_SCHEMA
"""Of all tools together."""
_MAX_PATTERN = 256
_MAX_EXPANDED = 2000
_MAX_TOKEN = 256
"""Characters that one token has at most."""
_SHORT_TEXT = 2**20
"""Characters that are cut into tokens whatever the context: a prompt may be sent to be counted."""
_NESTED_COST = 8

Cannot = Callable[[str, str], None]
"""``cannot(field, why)`` raises for a field, or returns if the model is to leave out what its vendor cannot do."""


def keep_allowed(body: dict[str, Any], context: int, cannot: Cannot, asks: Callable[[Any], bool]) -> None:
    """Removes from the ``body`` of a chat or a completion all that llama.cpp has no field for, and bounds the rest.

    ``context`` is in tokens; ``asks`` tells whether a value asks for anything; ``cannot`` raises for a field, or
    returns if the model is to leave out what its vendor cannot do.
    """
    _spread_options(body, cannot)
    for field in body.keys() - _ALLOWED:
        if field == "grammar":
            cannot(field, ": a grammar can take any time; give 'response_format' with a schema")
        elif field not in HINTS and asks(body[field]):
            cannot(field, "")
        del body[field]
    for field in _WITHIN_CONTEXT:
        if body.get(field) is not None:
            _check_within(body[field], field, context)
    for field, most in _MAX_LISTED.items():
        if body.get(field) is not None:
            _check_listed(body[field], field, most)
    for field in ("response_format", "json_schema"):
        if isinstance(body.get(field), dict):
            _check_schema(body[field], field, _MAX_SCHEMA)
    if isinstance(body.get("tools"), list):
        _check_schema(body["tools"], "tools", _MAX_TOOL_SCHEMAS)


def check_length(body: dict[str, Any], context: int) -> None:
    """Raises for text that is far longer than the context: to find that out, llama.cpp would cut all of it into tokens,
    which takes it seconds and many times the memory of the text."""
    most = max(_SHORT_TEXT, context * _MAX_TOKEN)
    for field in ("messages", "prompt", "input", "query", "documents", "text_1", "text_2"):
        value = body.get(field)
        if value is not None and _length(value, most) > most:
            raise InvalidRequest(
                f"'{field}' holds more text than the model's context of {context} tokens can; shorten it",
                param=field,
                code="context_length_exceeded",
            )


def _length(value: Any, enough: int) -> int:
    """The characters of the texts in ``value``, or more than ``enough``; of a list of texts those of the longest, for
    each is computed by itself."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list):
        return 0
    if all(isinstance(text, str) for text in value):
        return max(map(len, value), default=0)
    length = 0
    for item in value:
        content = item.get("content", item.get("text")) if isinstance(item, dict) else item
        length += _length(content, enough) if isinstance(content, str | list) else 0
        if length > enough:
            break
    return length


def _spread_options(body: dict[str, Any], cannot: Cannot) -> None:
    """Puts what samples in Ollama's ``options`` where llama.cpp has it."""
    options = body.pop("options", None)
    if not isinstance(options, dict):
        return
    for name, value in options.items():
        field = _OLLAMA_NAMES.get(name, name)
        if field in _SAMPLING or field in _ANSWER:
            body.setdefault(field, value)
        elif field not in _LOADING and value is not None:
            cannot(f"options.{name}", "")


def _check_within(value: Any, field: str, context: int) -> None:
    if type(value) is not int or not -1 <= value <= context:
        raise InvalidRequest(f"'{field}' must be a whole number from -1 to {context}, the model's context", param=field)


def _check_listed(value: Any, field: str, most: int) -> None:
    entries = [value] if isinstance(value, str) else value
    if (
        not isinstance(entries, list)
        or len(entries) > most
        or not all(isinstance(entry, str) and len(entry) <= _MAX_LISTED_LENGTH for entry in entries)
    ):
        raise InvalidRequest(
            f"'{field}' must be a list of {most} texts of {_MAX_LISTED_LENGTH} characters at most", param=field
        )


def _check_schema(schema: Any, field: str, most: int) -> None:
    """Raises for a schema whose grammar would take too long: too large, or with a pattern of too many repetitions."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        most -= len(value)
        if most < 0:
            raise InvalidRequest(f"the schema in '{field}' is too large for a local model", param=field)
        if isinstance(value, dict):
            pattern = value.get("pattern")
            if isinstance(pattern, str) and _is_too_large(pattern):
                raise InvalidRequest(
                    f"the 'pattern' {pattern[:50]!r} in '{field}' is too long, or has too many repetitions within "
                    "repetitions, for a local model",
                    param=field,
                )
        inner = value.values() if isinstance(value, dict) else value
        waiting += (each for each in inner if isinstance(each, dict | list))


def _is_too_large(pattern: str) -> bool:
    return len(pattern) > _MAX_PATTERN or written_out(pattern, _MAX_EXPANDED, _NESTED_COST) > _MAX_EXPANDED
