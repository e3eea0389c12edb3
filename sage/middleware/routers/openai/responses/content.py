"""The parts of a content: Responses' as those of chat completions.

Source: OpenAI's API reference (responses, *Input content*; chat/completions, *Messages*).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.routers.openai.responses.faults import only_native, text_in, wrong

Refuse = Callable[[InvalidRequest], None]
"""Takes the error for something that has no translation."""
_TEXTS = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})


def chat_content(content: Any, where: str, refuse: Refuse) -> str | list[dict[str, Any]]:
    """The ``content`` of a chat message: one text where there is no more, else parts."""
    if isinstance(content, str):
        return content
    parts = chat_parts(content, where, refuse)
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return parts or ""


def chat_parts(content: Any, where: str, refuse: Refuse) -> list[dict[str, Any]]:
    """The parts of a chat message."""
    if not isinstance(content, list):
        wrong(where, "text or a list of parts")
    parts = []
    for index, part in enumerate(content):
        translated = _part(part, f"{where}[{index}]", refuse)
        if translated is not None:
            parts.append(translated)
    return parts


def joined_text(parts: list[dict[str, Any]], between: str) -> str | None:
    """The text of ``parts``; ``None`` if there is one that is no text."""
    if any(part["type"] != "text" for part in parts):
        return None
    return between.join(part["text"] for part in parts)


def answer_texts(content: Any, where: str) -> tuple[str, str]:
    """The text and the refusal in the ``content`` of an answer."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        wrong(where, "text or a list of parts")
    texts, refusals = [], []
    for index, part in enumerate(content):
        place = f"{where}[{index}]"
        kind = _kind(part, place)
        if kind in _TEXTS:
            texts.append(text_in(part, "text", place))
        elif kind == "refusal":
            refusals.append(text_in(part, "refusal", place))
        else:
            wrong(f"{place}.type", "'output_text' or 'refusal' in a message of the assistant")
    return "".join(texts), "".join(refusals)


def _kind(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        wrong(where, "an object with a 'type'")
    return text_in(part, "type", where)


def _part(part: Any, where: str, refuse: Refuse) -> dict[str, Any] | None:
    kind = _kind(part, where)
    if kind in _TEXTS:
        return {"type": "text", "text": text_in(part, "text", where)}
    if kind == "input_image":
        return _image(part, where, refuse)
    if kind == "input_file":
        return _file(part, where, refuse)
    if kind == "input_audio":
        if not isinstance(part.get("input_audio"), dict):
            wrong(f"{where}.input_audio", "an object with 'data' and 'format'")
        return {"type": kind, "input_audio": part["input_audio"]}
    if kind == "refusal":
        return {"type": "text", "text": text_in(part, "refusal", where)}
    refuse(only_native(f"a part of the type '{kind[:100]}'", f"{where}.type", "leave it out"))
    return None


def _image(part: dict[str, Any], where: str, refuse: Refuse) -> dict[str, Any] | None:
    url, detail = part.get("image_url"), part.get("detail")
    if url is None and part.get("file_id") is not None:
        text_in(part, "file_id", where)
        refuse(only_native("an image by its 'file_id'", f"{where}.file_id", "give it as 'image_url' (data:…)"))
        return None
    image = {"url": text_in(part, "image_url", where)}
    if detail is not None:
        image["detail"] = text_in(part, "detail", where)
    return {"type": "image_url", "image_url": image}


def _file(part: dict[str, Any], where: str, refuse: Refuse) -> dict[str, Any] | None:
    if part.get("file_url") is not None:
        text_in(part, "file_url", where)
        refuse(only_native("a file by its 'file_url'", f"{where}.file_url", "give its bytes as 'file_data' (data:…)"))
        return None
    names = [name for name in ("file_data", "file_id", "filename") if part.get(name) is not None]
    if not {"file_data", "file_id"}.intersection(names):
        wrong(where, "a file with 'file_data', 'file_id' or 'file_url'")
    return {"type": "file", "file": {name: text_in(part, name, where) for name in names}}
