"""A chat's chunks of text as the deltas of a response. Most are like the one before but for their text: they are not
parsed, and their events are not built anew."""

from __future__ import annotations

from typing import Any

from sage.middleware.providers.wire.repeated_events import EventShape, has_text_alone
from sage.middleware.routers.openai.responses.writer import EventWriter, RepeatedEvent

_MOST_LEARNED = 8
"""How often it is tried to find chunks that are alike: some servers number each of them."""


class TextDeltas:
    """The chunks of one stream that are like one that was seen in the part of text that goes on."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer
        self.shape: EventShape | None = None
        self._form = RepeatedEvent(b"", b"", b"")
        self._texts: list[str] = []
        self._tries = 0

    def write(self, texts: list[bytes]) -> bytes:
        """The events of the response for ``texts`` as they stand in JSON; an empty one has none."""
        if b"" in texts:
            texts = [text for text in texts if text]
        self._texts.append(b"".join(texts).decode())
        return self._writer.repeated(self._form, texts)

    def learn(self, event: bytes, chunk: dict[str, Any], name: str, part: int, texts: list[str]) -> None:
        """Has the chunks that are like that of ``event`` add to ``texts``, and to that ``part`` of the message of that
        ``name``."""
        if self._tries < _MOST_LEARNED and has_text_alone(chunk) and not chunk["choices"][0].get("logprobs"):
            self._tries += 1
            self.shape = EventShape.under(b"content", event)
            self._form = self._writer.text_form(name, part)
            self._texts = texts

    def forget(self) -> None:
        """The part of text has ended."""
        self.shape = None
