"""The chat template ``conversation``, for base models: which language its frame is in."""

from __future__ import annotations

import re
from typing import Any

from sage.middleware.providers.wire.messages import content_of

CONVERSATION = "conversation"
"""The name of the template."""
_HAN = re.compile("[\u3400-\u9fff]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")


def in_language(body: dict[str, Any]) -> None:
    """Tells the template, in ``body``, that the last message of the user is in Chinese. Its last line decides: what was
    found for it, or recalled, stands before it."""
    users = [message for message in body["messages"] if message.get("role") == "user"]
    lines = _text(content_of(users[-1])).split("\n") if users else [""]
    if _HAN.search(lines[-1]) and not _KANA_OR_HANGUL.search(lines[-1]):
        arguments = body.get("chat_template_kwargs")
        body["chat_template_kwargs"] = {**(arguments if isinstance(arguments, dict) else {}), "chinese": True}


def _text(content: Any) -> str:
    """The text of a message, or of the last of its parts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = next((text for text in reversed(texts) if isinstance(text, str)), "")
    return content.strip() if isinstance(content, str) else ""
