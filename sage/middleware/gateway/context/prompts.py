"""Putting text before the last message of the user: where it goes, and how much of the model's context is free."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.gateway.admission import TOKEN_FIELDS
from sage.middleware.gateway.context.neutralise import estimate_tokens
from sage.middleware.settings.retrieval import MAX_QUERY

_OVERHEAD = 200
"""Tokens of the words around the text that is put there."""
_MESSAGE_OVERHEAD = 8
"""Tokens that a chat template adds to a message."""


@dataclass(frozen=True)
class FreeContext:
    """How many ``tokens`` are free in the smallest context of the models that may answer.

    ``context`` is the size of that context in tokens, and ``model`` the name of the model that has it.
    """

    tokens: int
    context: int
    model: str


def free_context(models: Sequence[PublicModel], body: dict[str, Any]) -> FreeContext | None:
    """What the messages and the answer of a chat leave free; ``None`` means that no model's context is known."""
    contexts = [
        (context, model.name)
        for model in models
        for deployment in model.deployments
        if (context := deployment.provider.context(deployment.model)) is not None
    ]
    if not contexts:
        return None
    context, name = min(contexts)
    answer = max((body[field] for field in TOKEN_FIELDS if isinstance(body.get(field), int)), default=context // 4)
    used = sum(estimate_tokens(text_of(message.get("content"))) + _MESSAGE_OVERHEAD for message in body["messages"])
    used += estimate_tokens(orjson.dumps(body["tools"]).decode()) if body.get("tools") else 0
    return FreeContext(context - used - min(answer, context // 2) - _OVERHEAD, context, name)


def last_user_message(messages: Sequence[dict[str, Any]], param: str) -> int:
    """The index of the last message of the user. Raises :class:`InvalidRequest`, in which ``param`` needs one."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "user":
            return index
    raise InvalidRequest(f"'{param}' needs a message of the user, before which something can be put", param="messages")


def put_before(body: dict[str, Any], index: int, text: str) -> None:
    """Puts ``text`` before the content of the message at ``index``; the caller's own messages stay as they are."""
    messages = body["messages"]
    message = messages[index]
    changed = {**message, "content": _join(text, message.get("content"))}
    body["messages"] = [*messages[:index], changed, *messages[index + 1 :]]


def _join(text: str, content: Any) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": f"{text}\n"}, *content]
    return f"{text}\n\n{content or ''}".rstrip()


def text_of(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def query_of(text: str) -> str:
    """The query that a message makes: its end, to be searched for as plain words. Empty where there is nothing to
    search for: no letter, digit or symbol such as an emoji."""
    query = text[-MAX_QUERY:]
    return query if any(map(_is_searchable, query)) else ""


def _is_searchable(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character) in ("Mc", "Mn", "So")
