"""Events of a stream that differ from one another only in their text, as nearly all events of an answer do: what was
found of one of them holds for all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from sage.middleware.providers.wire.event_bytes import is_utf8

_TEXT = re.compile(rb'"(?:content|text|reasoning_content)"\s*:\s*"([^"\\]*)"')
_NO_TEXT = b'"\\\n\r'
_SHORT = 16 * 1024
"""Bytes of events that are looked at as a whole, though that may have to be done again after each that is unlike."""


class EventShape:
    """All of an event but its text, as it comes from the upstream and as it goes on to the client.

    A text without a quotation mark, an escape or a line end is nothing but a text, whatever it says. So an event of
    the same shape as another has the same keys, and the same values under them but this one.
    """

    __slots__ = (
        "_after",
        "_before",
        "_between",
        "_followed",
        "_sent_after",
        "_sent_before",
        "_sent_between",
        "_text",
        "sent",
        "sent_texts",
    )

    def __init__(self, before: bytes, after: bytes, old: bytes, new: bytes) -> None:
        """``old`` and ``new``: what is replaced in it by what."""
        self._before, self._after, self._between = before, after, after + before
        self._sent_before = before.replace(old, new) if old else before
        self._sent_after = after.replace(old, new) if old else after
        self._sent_between = self._sent_after + self._sent_before
        self._text = slice(len(before), 2 - len(after))
        """Where the text stands in the line of an event."""
        self._followed: EventShape | None = None
        """One that sends events of this shape."""
        self.sent: bytes | None = None
        """What :meth:`relay` has returned last, but for ``None``."""
        self.sent_texts: list[bytes] = []
        """The texts of these events, each as it stands in JSON, without escapes."""

    @classmethod
    def under(cls, key: bytes, event: bytes) -> EventShape | None:
        """The shape of ``event``, whose text is under ``key``; ``None`` if it has another text, or none."""
        texts = list(_TEXT.finditer(event))
        if len(texts) != 1 or not texts[0][0].startswith(b'"%b"' % key):
            return None
        begin, end = texts[0].span(1)
        return cls(event[:begin], event[end:], b"", b"")

    @classmethod
    def of(cls, event: bytes, old: bytes, new: bytes) -> EventShape | None:
        """The shape of ``event``; ``None`` if it has no text."""
        texts = list(_TEXT.finditer(event))
        if not texts:
            return None
        begin, end = max(texts, key=lambda match: len(match[1])).span(1)
        return cls(event[:begin], event[end:], old, new)

    def relay(self, events: bytes) -> bytes | None:
        """``events`` as they go on; ``None`` unless each of them has this shape."""
        texts = self.texts(events)
        if texts is None:
            return None
        self.sent_texts = texts
        self.sent = sent = self._sent_before + self._sent_between.join(texts) + self._sent_after
        return sent

    def texts(self, events: bytes) -> list[bytes] | None:
        """The texts of ``events``, each as it stands in JSON, without escapes; ``None`` unless each of them has this
        shape."""
        before, after = self._before, self._after
        if not (events.startswith(before) and events.endswith(after)):
            return None
        start, end = len(before), len(events) - len(after)
        if events.find(b"\n", start) >= end:  # one event
            text = events[start:end]
            return [text] if end >= start and _is_plain(text) else None
        # To look for all that stands between two texts would cost more than to compare what is there with it.
        place = self._text
        texts = [line[place] for line in events.split(b"\n")[:-1:2]]
        if before + self._between.join(texts) + after != events or not _is_plain(b" ".join(texts)):
            return None
        return texts

    def texts_sent(self, sender: HasShape | None, events: bytes) -> list[bytes] | None:
        """As :meth:`texts`, where ``sender`` may have just sent ``events`` by a shape of its own: if all that this one
        sends have the shape looked for, nothing has to be read once more."""
        other = sender.shape if sender is not None else None
        if other is not None and other.sent is events:
            if other is self._followed:
                return other.sent_texts
            if other._sent_before == self._before and other._sent_after == self._after:
                self._followed = other
                return other.sent_texts
        return self.texts(events)

    def run(self, events: bytes, start: int) -> tuple[list[bytes], int]:
        """As :meth:`texts`, for those of ``events`` from the place ``start`` on that have this shape, up to the first
        that has not; and where that begins."""
        before, after = self._before, self._after
        texts: list[bytes] = []
        if not events.startswith(before, start):
            return texts, start
        if len(events) - start <= _SHORT:
            texts = events[start + len(before) :].split(self._between)
            last = texts[-1]  # with what follows
            texts[-1] = last[: last.find(b'"')]
            if last.startswith(after, len(texts[-1])) and _is_plain(b" ".join(texts)):
                return texts, start + len(before) + len(self._between.join(texts)) + len(after)
            texts = []
        while events.startswith(before, start):  # it may be another shape that follows, and then this one again
            begin = start + len(before)
            end = events.find(b'"', begin)
            text = events[begin:end]
            if not events.startswith(after, end) or not _is_plain(text):
                break
            texts.append(text)
            start = end + len(after)
        return texts, start


class HasShape(Protocol):
    """Knows, or sends, events that are alike."""

    shape: EventShape | None
    """That of the last ones; ``None`` means that none is known."""


def in_runs(
    events: bytes, known: HasShape, write: Callable[[list[bytes]], bytes], translate: Callable[[bytes], bytes]
) -> bytes:
    """``events`` of which some have the shape that is ``known``, and some have not: ``write`` makes of the texts of a
    run what goes on, and ``translate`` of each of the others, from which on another shape may be known."""
    start, size, done = 0, len(events), []
    while start < size:
        shape = known.shape
        texts, end = shape.run(events, start) if shape is not None else (None, start)
        if texts:
            done.append(write(texts))
        else:
            end = events.find(b"\n\n", start) + 2
            done.append(translate(events[start:end]))
        start = end
    return b"".join(done)


def has_text_alone(chunk: dict[str, Any]) -> bool:
    """Whether a chat's chunk has a piece of text and nothing else: those that look like it say no more than it."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or isinstance(chunk.get("usage"), dict):
        return False
    choice = choices[0]
    if not isinstance(choice, dict) or choice.get("finish_reason"):
        return False
    delta = choice.get("delta")
    return isinstance(delta, dict) and delta.keys() <= {"content", "role"} and bool(delta.get("content"))


def _is_plain(text: bytes) -> bool:
    if len(text.translate(None, _NO_TEXT)) != len(text):
        return False
    return text.isascii() or is_utf8(text)
