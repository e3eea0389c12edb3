"""A call whose texts are to be kept, and the texts of a prompt. Loads no SQLAlchemy: fronts gather nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from sage.middleware.settings.capture import CaptureSettings

_MOST_READ = 256 * 1024
"""Bytes of a prompt, and of an answer, that are looked at."""


@dataclass(slots=True)
class CapturedCall:
    """A call whose texts are to be kept. Belongs to the event loop until it is handed over."""

    settings: CaptureSettings
    tenant: str
    user: str
    model: str
    request_id: bytes
    prompt: str
    stream: bool
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, data: bytes) -> None:
        """A part of the answer, as it goes to the client."""
        if self.size < _MOST_READ:
            self.parts.append(data)
            self.size += len(data)

    def passing(self, write: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        """``write``, which adds what it takes."""

        def adding(data: bytes) -> bool:
            taken = write(data)
            if taken:
                self.add(data)
            return taken

        return adding

    def answer(self) -> str:
        """The texts of the answer."""
        data = b"".join(self.parts)
        chunks: list[Any] = []
        is_events = self.stream and not data.startswith(b"{")  # an answer that goes on as it comes may be a JSON
        for piece in data.split(b"\n\n") if is_events else [data]:
            try:
                chunks.append(orjson.loads(piece.partition(b"data:")[2] if is_events else piece))
            except orjson.JSONDecodeError:
                continue
        choices = [choice for chunk in chunks if isinstance(chunk, dict) for choice in chunk.get("choices") or ()]
        texts = [chunk["text"] for chunk in chunks if isinstance(chunk, dict) and isinstance(chunk.get("text"), str)]
        if texts and not choices:
            return "\n".join(texts)  # of a transcript
        said = [choice.get("delta") or choice.get("message") or choice.get("text") for choice in choices if choice]
        return ("" if self.stream else "\n").join(text for each in said for text in _texts(each))


def prompt_text(body: Mapping[str, Any]) -> str:
    """The texts of a request, a line for each message, which begins with its role."""
    lines: list[str] = []
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict):
            content = {name: value for name, value in message.items() if name != "role"}
            lines.append(f"{message.get('role')}: {' '.join(_texts(content))}")
    for name in ("prompt", "input", "query", "documents", "text_1", "text_2"):
        lines += _texts(body.get(name))
    return "\n".join(lines)[:_MOST_READ]


def _texts(value: Any) -> Iterable[str]:
    """Every text in ``value`` but ids, kinds and media."""
    if isinstance(value, str):
        yield value if not value.startswith("data:") else "[data]"
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("id", "type", "role", "image_url", "input_audio", "file"):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
