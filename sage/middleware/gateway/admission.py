"""Checks of a request before it is dispatched: parameters that multiply work have bounds, foreign URLs are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.gateway.body_walk import HARMLESS, BodyWalk
from sage.middleware.providers.base import MAX_NAME, ModelCall, Operation, count_prompts
from sage.middleware.settings.settings import RequestLimits

# Every name that servers have for the bound on new tokens.
TOKEN_FIELDS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
    "num_predict",
    "min_tokens",
)
CHOICE_FIELDS = ("n", "best_of", "n_cmpl", "num_return_sequences")
_TOKEN_FIELDS, _CHOICE_FIELDS = frozenset(TOKEN_FIELDS), frozenset(CHOICE_FIELDS)
UPPER_BOUNDS = tuple(field for field in TOKEN_FIELDS if field != "min_tokens")
_UNLIMITED = (-1, -2)
_BUILT_IN_LIMIT = RequestLimits().max_tokens
_CHAT = Operation.CHAT  # to look up a member of an enum costs a call on Python 3.11
_MAX_FALLBACKS = 8
_MAX_MESSAGES = 10_000
UNMEASURED = -1
_LONG = 4_096  # characters


def check(call: ModelCall, limits: RequestLimits) -> None:
    """Raises :class:`InvalidRequest`, which names the field, for what ``limits`` do not allow."""
    body, operation = call.body, call.operation
    if not _TOKEN_FIELDS.isdisjoint(body):
        _check_tokens_of_answer(call, body, limits)
    if "options" in body:
        _check_options(call, limits)
    size = plain_size(body["messages"]) if "messages" in body else None
    is_plain = size is not None
    call.text_size = None if size == UNMEASURED else size
    if is_plain and operation is _CHAT and call.native is None and call.hints is None and HARMLESS.issuperset(body):
        if _CHOICE_FIELDS.isdisjoint(body):
            call.is_plain = True
        else:
            _check_choices(call, limits)
        return
    walk = BodyWalk(limits)
    if not is_plain and (operation is _CHAT or "messages" in body):
        _check_messages(body, walk)
    native = call.native
    if native is not None:
        _check_native_content(native.body, walk)
    check_inputs = _INPUTS.get(operation)
    if check_inputs is not None:
        check_inputs(body, limits, walk)
    else:
        _check_choices(call, limits)
    walk.check_fields(body)
    if call.hints is not None:
        walk.check_fields(call.hints)
    if native is not None:
        walk.check_fields(native.body)


def _check_options(call: ModelCall, limits: RequestLimits) -> None:
    """Checks the bound on new tokens where Ollama's clients put it."""
    options = call.body["options"]
    if isinstance(options, dict) and "num_predict" in options:
        options = call.body["options"] = dict(options)
        _check_tokens_of_answer(call, options, limits)


def _check_tokens_of_answer(call: ModelCall, fields: dict[str, Any], limits: RequestLimits) -> None:
    """Checks the bounds on new tokens, and takes those away that ask for none (-1; Ollama and llama.cpp have -2, too).

    A number in their place would be too large for most models, and their vendors refuse it. Ours is sent only where
    the configuration has made it smaller.
    """
    for field in filter(fields.__contains__, TOKEN_FIELDS):
        value = fields[field]
        if type(value) is int and 0 < value <= limits.max_tokens:
            if value > call.answer_bound and field != "min_tokens":
                call.answer_bound = value
            continue
        if value in _UNLIMITED and type(value) is int and field != "min_tokens":
            del fields[field]
            if limits.max_tokens < _BUILT_IN_LIMIT:
                fields[field] = call.answer_bound = limits.max_tokens
            elif not any(fields.get(other) for other in UPPER_BOUNDS):
                call.token_bound = limits.max_tokens
                if call.operation is Operation.COMPLETIONS:
                    call.body["max_tokens"] = None  # left out, it would be 16 at OpenAI's and vLLM's
        elif not (field == "max_tokens" and value == 0 and _echoes(call, fields)):
            _check_count(fields, field, limits.max_tokens)


def _echoes(call: ModelCall, fields: dict[str, Any]) -> bool:
    """Whether it asks for the prompt's own logprobs, and perhaps for no new token."""
    return call.operation is Operation.COMPLETIONS and fields.get("echo") is True


def _check_choices(call: ModelCall, limits: RequestLimits) -> None:
    body, choices = call.body, 1
    if not _CHOICE_FIELDS.isdisjoint(body):
        choices = max(_check_count(body, field, limits.max_choices) for field in _CHOICE_FIELDS.intersection(body))
    if call.operation is Operation.COMPLETIONS:
        _check_prompts(body, choices, limits)


def _check_count(body: dict[str, Any], field: str, most: int) -> int:
    """The whole number in ``field``, from 1 to ``most``."""
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


def _check_messages(body: dict[str, Any], walk: BodyWalk) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a list with at least one message", param="messages")
    if len(messages) > _MAX_MESSAGES:
        raise InvalidRequest(f"'messages' may hold {_MAX_MESSAGES} messages, not {len(messages)}", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(
                f"messages[{index}] must be an object with a 'role' and a 'content'", param=f"messages[{index}]"
            )
        content = message.get("content")
        if isinstance(content, str) and len(message) == 2:
            continue
        if content is not None and not isinstance(content, str | list):
            where = f"messages[{index}].content"
            raise InvalidRequest(f"{where} must be text or a list of parts", param=where)
        walk.check_message(message, f"messages[{index}]")


def plain_size(messages: Any) -> int | None:
    """The bytes of text of ``messages`` if each of them is an object with a role and a text and nothing else, as in
    most chats; else ``None``. :data:`UNMEASURED` for long texts that are not ASCII: to encode them takes as long as to
    write the request, and mostly nobody asks."""
    if type(messages) is not list or not 0 < len(messages) <= _MAX_MESSAGES:
        return None
    size, long = 0, False
    try:
        for message in messages:
            content = message["content"]
            if len(message) != 2 or type(message["role"]) is not str:
                return None
            if content.isascii():
                size += len(content)
            elif len(content) <= _LONG:
                size += len(content.encode())
            else:
                long = True
    except (TypeError, KeyError, AttributeError, UnicodeEncodeError):
        return None
    return UNMEASURED if long else size


def _check_native_content(body: Mapping[str, Any], walk: BodyWalk) -> None:
    """Checks a body that is sent unchanged: its translation, which is checked too, may lack some of it."""
    for field in ("messages", "inputs"):
        items = body.get(field)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            content = item.get("content") if isinstance(item, dict) else None
            parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
            walk.check_parts(parts, f"{field}[{index}].content")
            if isinstance(item, dict):
                walk.check_message({k: v for k, v in item.items() if k != "content"}, f"{field}[{index}]")


def _check_prompts(body: dict[str, Any], choices: int, limits: RequestLimits) -> None:
    prompt = body.get("prompt")
    if not isinstance(prompt, str | list) or (not prompt and isinstance(prompt, list)):
        raise InvalidRequest("'prompt' must be text, or a list of texts or of tokens", param="prompt")
    _check_token_lists(prompt, "prompt", limits)
    prompts = count_prompts(body)
    if prompts * choices > limits.max_choices:
        raise InvalidRequest(
            f"{prompts} prompts times {choices} answers are more than the {limits.max_choices} completions "
            "that one request may ask for (llm.limits.max_choices)",
            param="prompt",
        )


def _check_token_lists(value: Any, field: str, limits: RequestLimits) -> None:
    """Checks how many tokens ``value`` holds, where it is a list of them, or a list of such lists."""
    if not isinstance(value, list):
        return
    for tokens in (value, *value) if isinstance(value[0], list) else (value,):
        if isinstance(tokens, list) and tokens and isinstance(tokens[0], int) and len(tokens) > limits.max_tokens:
            raise InvalidRequest(
                f"'{field}' holds a text of {len(tokens)} tokens; at most {limits.max_tokens} are allowed", param=field
            )


def _check_inputs(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    inputs = body.get("input")
    if not isinstance(inputs, str | list) or not inputs:
        raise InvalidRequest("'input' must be text, or a list of texts or of tokens", param="input")
    _check_token_lists(inputs, "input", limits)
    if isinstance(inputs, list) and not isinstance(inputs[0], int) and len(inputs) > limits.max_inputs:
        raise InvalidRequest(
            f"'input' holds {len(inputs)} texts; at most {limits.max_inputs} are allowed", param="input"
        )
    if isinstance(inputs, list) and any(isinstance(item, dict) for item in inputs):
        walk.check_parts([item for item in inputs if isinstance(item, dict)], "input")


def _check_pairs(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    """Checks the two sides of vLLM's scores: one text against one or many, or two lists of the same length."""
    counts = []
    for field in ("text_1", "text_2"):
        side = body.get(field)
        if not isinstance(side, str | list | dict) or not side:
            raise InvalidRequest(f"'{field}' must be text, or a list of texts", param=field)
        texts = side if isinstance(side, list) else [side]
        if len(texts) > limits.max_inputs:
            raise InvalidRequest(
                f"'{field}' holds {len(texts)} texts; at most {limits.max_inputs} are allowed", param=field
            )
        for text in texts:
            if isinstance(text, dict):
                content = text.get("content")
                walk.check_parts(content if isinstance(content, list) else [text], field)
            elif not isinstance(text, str):
                raise InvalidRequest(f"'{field}' must hold texts, not {_kind(text)}", param=field)
        counts.append(len(texts))
    if counts[0] not in (1, counts[1]):
        raise InvalidRequest(
            f"{counts[0]} texts cannot be scored against {counts[1]}: give one 'text_1', or as many as 'text_2' has",
            param="text_1",
        )


def _check_text(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    if "messages" in body and "prompt" in body:
        raise InvalidRequest("give either 'prompt' or 'messages'", param="prompt")
    if "messages" not in body and not isinstance(body.get("prompt"), str):
        raise InvalidRequest("'prompt' must be text (or give 'messages')", param="prompt")


def _check_speech(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    if not isinstance(body.get("input"), str) or not body["input"]:
        raise InvalidRequest("'input' must be the text to speak", param="input")


def _check_images(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    if "n" in body:
        _check_count(body, "n", limits.max_choices)
    if body.get("prompt") is not None and not isinstance(body["prompt"], str):
        raise InvalidRequest("'prompt' must be text", param="prompt")


def _check_transcription(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    """Its fields are in a form: texts, which are walked as any others."""


def check_late_fields(fields: Mapping[str, Any], limits: RequestLimits) -> None:
    """As :func:`check`, for fields of a form that come after its files."""
    BodyWalk(limits).check_fields(fields)


def _check_tokens(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int and token >= 0 for token in tokens):
        raise InvalidRequest("'tokens' must be a list of the numbers of tokens", param="tokens")
    if len(tokens) > limits.max_tokens:
        raise InvalidRequest(f"'tokens' may hold {limits.max_tokens} tokens, not {len(tokens)}", param="tokens")


def _check_documents(body: dict[str, Any], limits: RequestLimits, walk: BodyWalk) -> None:
    check_rerank(body, limits.max_inputs)


def check_rerank(body: dict[str, Any], most: int | None = None) -> None:
    """Checks a query and its documents, ``most`` of them at most: texts, or objects with a ``text``."""
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not query:
        raise InvalidRequest("'query' must be text", param="query")
    if not isinstance(documents, list) or not documents:
        raise InvalidRequest("'documents' must be a list with at least one text", param="documents")
    if most is not None and len(documents) > most:
        raise InvalidRequest(f"'documents' holds {len(documents)} texts; at most {most} are allowed", param="documents")
    for index, document in enumerate(documents):
        if not isinstance(document.get("text") if isinstance(document, dict) else document, str):
            where = f"documents[{index}]"
            raise InvalidRequest(f"{where} must be a text, or an object with a 'text'", param=where)
    for field in ("top_n", "max_tokens_per_doc"):
        value = body.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidRequest(f"'{field}' must be a whole number from 1", param=field)


def fallbacks(body: dict[str, Any]) -> tuple[str, ...]:
    """Removes ``models``, the names of models that may answer instead, from ``body`` and returns them."""
    names = body.pop("models", None) if "models" in body else None
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InvalidRequest("'models' must be a list of model names to fall back on", param="models")
    return check_names(names)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names to fall back on; raises :class:`InvalidRequest` when they are too many or too long."""
    if len(names) > _MAX_FALLBACKS:
        raise InvalidRequest(f"'models' may hold {_MAX_FALLBACKS} names, not {len(names)}", param="models")
    if any(len(name) > MAX_NAME for name in names):
        raise InvalidRequest(f"'models' holds a name of more than {MAX_NAME} characters", param="models")
    return tuple(names)


def _kind(value: Any) -> str:
    """What ``value`` is, in words for an error message."""
    return {bool: "a truth value", str: "text", float: "a fraction", list: "a list", dict: "an object"}.get(
        type(value), type(value).__name__
    )


# The check of what an operation reads. Operations that generate have the checks above.
_INPUTS: dict[Operation, Callable[[dict[str, Any], RequestLimits, BodyWalk], None]] = {
    Operation.EMBEDDINGS: _check_inputs,
    Operation.RERANK: _check_documents,
    Operation.SCORE: _check_pairs,
    Operation.TOKENIZE: _check_text,
    Operation.DETOKENIZE: _check_tokens,
    Operation.MODERATIONS: _check_inputs,
    Operation.SPEECH: _check_speech,
    Operation.TRANSCRIPTIONS: _check_transcription,
    Operation.TRANSLATIONS: _check_transcription,
    Operation.IMAGES: _check_images,
    Operation.IMAGE_EDITS: _check_images,
    Operation.IMAGE_VARIATIONS: _check_images,
}
