"""What is put before a user's last message: where it goes, and how much of a model's context is left for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.gateway.admission import TOKEN_FIELDS
from sage.middleware.gateway.context.neutralise import reckon

_SIGNS = re.compile(r"[\"“”„＂「」『』]|(?<!\S)[+\-＋－](?=\w)")
_OVERHEAD = 200
"""Tokens of what stands around what is put there."""


@dataclass(frozen=True)
class Room:
    """What is left of the smallest context of the models that may answer, in tokens; ``model`` has that one."""

    left: int
    context: int
    model: str


def room_left(models: Sequence[PublicModel], body: dict[str, Any]) -> Room | None:
    """``None``: no context of theirs is known."""
    known = [
        (context, model.name)
        for model in models
        for deployment in model.deployments
        if (context := deployment.provider.context(deployment.model)) is not None
    ]
    if not known:
        return None
    context, name = min(known)
    asked = max((body[field] for field in TOKEN_FIELDS if isinstance(body.get(field), int)), default=context // 4)
    told = sum(reckon(text_of(message.get("content"))) + 8 for message in body["messages"])
    told += reckon(orjson.dumps(body["tools"]).decode()) if body.get("tools") else 0
    return Room(context - told - min(asked, context // 2) - _OVERHEAD, context, name)


def last_of_user(messages: Sequence[dict[str, Any]], param: str) -> int:
    """Where the last message of the user stands; ``param`` is what needs one."""
    for place in range(len(messages) - 1, -1, -1):
        if messages[place]["role"] == "user":
            return place
    raise InvalidRequest(f"'{param}' needs a message of the user, before which something can be put", param="messages")


def put_before(body: dict[str, Any], place: int, told: str) -> None:
    """Puts ``told`` before what the message at ``place`` says; the caller's own messages stay as they are."""
    messages = body["messages"]
    message = messages[place]
    changed = {**message, "content": _before(message.get("content"), told)}
    body["messages"] = [*messages[:place], changed, *messages[place + 1 :]]


def _before(content: Any, told: str) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": f"{told}\n"}, *content]
    return f"{told}\n\n{content or ''}".rstrip()


def text_of(content: Any) -> str:
    """The text of a message, which may be a list of parts."""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def as_words(text: str) -> str:
    """``text`` without what a query says by signs: who writes to a model means no search by a quotation or a dash."""
    return _SIGNS.sub(" ", text)
