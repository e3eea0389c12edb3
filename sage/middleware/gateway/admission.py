"""What a request may ask for before it goes on: parameters that multiply work are bounded, diversions refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.gateway import media
from sage.middleware.providers.base import MAX_NAME, Call, Operation, count_prompts
from sage.middleware.settings import Limits

# Every name that servers know the bound on new tokens by.
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict", "min_tokens")
CHOICE_FIELDS = ("n", "best_of", "n_cmpl", "num_return_sequences")
_MAX_FALLBACKS = 8


def check(call: Call, limits: Limits) -> None:
    """Raises :class:`InvalidRequest`, naming the field, for what ``limits`` do not allow."""
    body = call.body
    for field in TOKEN_FIELDS:
        if field in body:
            _whole(body, field, limits.max_tokens)
    if call.operation is Operation.CHAT or "messages" in body:
        _check_messages(body, limits)
    if call.operation is Operation.EMBEDDINGS:
        _check_inputs(body, limits)
        return
    choices = 1
    for field in CHOICE_FIELDS:
        if field in body:
            choices = max(choices, _whole(body, field, limits.max_choices))
    if call.operation is Operation.COMPLETIONS:
        _check_prompts(body, choices, limits)


def _whole(body: dict[str, Any], field: str, most: int) -> int:
    value = body[field]
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"'{field}' must be a whole number, not {_kind(value)}", param=field)
    if field in ("n_predict", "min_tokens") and value == 0:
        return 0
    if not 1 <= value <= most:
        raise InvalidRequest(f"'{field}' must be from 1 to {most}, not {value}", param=field)
    return value


def _check_messages(body: dict[str, Any], limits: Limits) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a list with at least one message", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(
                f"messages[{index}] must be an object with a 'role' and a 'content'", param=f"messages[{index}]"
            )
        content = message.get("content")
        if isinstance(content, list):
            media.check_parts(content, f"messages[{index}].content", limits.image_hosts)
        elif content is not None and not isinstance(content, str):
            where = f"messages[{index}].content"
            raise InvalidRequest(f"{where} must be text or a list of parts", param=where)


def _check_prompts(body: dict[str, Any], choices: int, limits: Limits) -> None:
    prompt = body.get("prompt")
    if not isinstance(prompt, str | list) or (not prompt and isinstance(prompt, list)):
        raise InvalidRequest("'prompt' must be text, or a list of texts or of tokens", param="prompt")
    prompts = count_prompts(body)
    if prompts * choices > limits.max_choices:
        raise InvalidRequest(
            f"{prompts} prompts times {choices} answers are more than the {limits.max_choices} completions "
            "that one request may ask for (llm.limits.max_choices)",
            param="prompt",
        )


def _check_inputs(body: dict[str, Any], limits: Limits) -> None:
    given = body.get("input")
    if not isinstance(given, str | list) or not given:
        raise InvalidRequest("'input' must be text, or a list of texts or of tokens", param="input")
    if isinstance(given, list) and not isinstance(given[0], int) and len(given) > limits.max_inputs:
        raise InvalidRequest(
            f"'input' holds {len(given)} texts; at most {limits.max_inputs} are allowed", param="input"
        )
    if isinstance(given, list) and any(isinstance(item, dict) for item in given):
        media.check_parts([item for item in given if isinstance(item, dict)], "input", limits.image_hosts)


def fallbacks(body: dict[str, Any]) -> tuple[str, ...]:
    """Takes ``models``, names of models that may answer instead, out of ``body``."""
    names = body.pop("models", None)
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InvalidRequest("'models' must be a list of model names to fall back on", param="models")
    return check_names(names)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names to fall back on; raises when they are too many or too long."""
    if len(names) > _MAX_FALLBACKS:
        raise InvalidRequest(f"'models' may hold {_MAX_FALLBACKS} names, not {len(names)}", param="models")
    if any(len(name) > MAX_NAME for name in names):
        raise InvalidRequest(f"'models' holds a name of more than {MAX_NAME} characters", param="models")
    return tuple(names)


def _kind(value: Any) -> str:
    return {bool: "a truth value", str: "text", float: "a fraction", list: "a list", dict: "an object"}.get(
        type(value), type(value).__name__
    )
