"""The chat template ``conversation``, for base models: which frame a chat gets."""

from __future__ import annotations

import re
from typing import Any

from sage.middleware.providers.wire.messages import content_of

CONVERSATION = "conversation"
"""The name of the template."""
_HAN = re.compile("[\u3400-\u9fff]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")


def set_frame(body: dict[str, Any], *, plain: bool = False) -> None:
    """Tells the template, in ``body``, which frame the chat gets: none with ``plain``, for an answer that follows a
    grammar; one in Chinese when the last message of the user is. Its last line decides: what was found for it, or
    recalled, stands before it."""
    if plain or _is_chinese(body["messages"]):
        given = body.get("chat_template_kwargs")
        frame = "plain" if plain else "chinese"
        body["chat_template_kwargs"] = {**(given if isinstance(given, dict) else {}), frame: True}


def _is_chinese(messages: list[dict[str, Any]]) -> bool:
    users = [message for message in messages if message.get("role") == "user"]
    line = _text(content_of(users[-1])).split("\n")[-1] if users else ""
    return bool(_HAN.search(line)) and not _KANA_OR_HANGUL.search(line)


def _text(content: Any) -> str:
    """The text of a message, or of the last of its parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = next((text for text in reversed(texts) if isinstance(text, str)), "")
    return content.strip() if isinstance(content, str) else ""
