"""Events of a stream that differ from one another only in their text, as nearly all events of an answer do: what was
found of one of them holds for all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sage.middleware.providers.wire.event_bytes import is_utf8

_TEXT = re.compile(rb'"(?:content|text|reasoning_content)"\s*:\s*"([^"\\]*)"')
_NO_TEXT = b'"\\\n\r'


class EventShape:
    """All of an event but its text, as it comes from the upstream and as it goes on to the client.

    A text without a quotation mark, an escape or a line end is nothing but a text, whatever it says. So an event of
    the same shape as another has the same keys, and the same values under them but this one.
    """

    __slots__ = ("_after", "_before", "_between", "_sent_after", "_sent_before", "_sent_between", "_text")

    def __init__(self, before: bytes, after: bytes, old: bytes, new: bytes) -> None:
        """``old`` and ``new``: what is replaced in it by what."""
        self._before, self._after, self._between = before, after, after + before
        self._sent_before = before.replace(old, new) if old else before
        self._sent_after = after.replace(old, new) if old else after
        self._sent_between = self._sent_after + self._sent_before
        self._text = slice(len(before), 2 - len(after))
        """Where the text stands in the line of an event."""

    @classmethod
    def rewritten(cls, event: bytes, key: bytes, before: bytes, after: bytes) -> EventShape | None:
        """The shape of ``event``, whose text is under ``key``, to go on as that text between ``before`` and ``after``;
        ``None`` if it has another text, or none."""
        texts = list(_TEXT.finditer(event))
        if len(texts) != 1 or not texts[0][0].startswith(b'"%b"' % key):
            return None
        begin, end = texts[0].span(1)
        shape = cls(event[:begin], event[end:], b"", b"")
        shape._sent_before, shape._sent_after, shape._sent_between = before, after, after + before
        return shape

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
        if events.count(b"\n") > 2:
            return self._relay_several(events)
        before, after = self._before, self._after
        end = len(events) - len(after)
        if end < len(before) or not (events.startswith(before) and events.endswith(after)):
            return None
        text = events[len(before) : end]
        return self._sent_before + text + self._sent_after if _is_plain(text) else None

    def texts(self, events: bytes) -> list[bytes] | None:
        """The texts of ``events``, each as it stands in JSON, without escapes; ``None`` unless each of them has this
        shape."""
        # To look for all that stands between two texts would cost more than to compare what is there with it.
        place = self._text
        texts = [line[place] for line in events.split(b"\n")[:-1:2]]
        if self._before + self._between.join(texts) + self._after != events or not _is_plain(b" ".join(texts)):
            return None
        return texts

    def end_of_run(self, events: list[bytes], start: int) -> int:
        """Up to where the ``events`` from ``start`` on, each without its empty line, look as if they had this shape."""
        before, after = self._before, self._after[:-2]
        end, count = start, len(events)
        while end < count and events[end].startswith(before) and events[end].endswith(after):
            end += 1
        return end

    def _relay_several(self, events: bytes) -> bytes | None:
        texts = self.texts(events)
        return None if texts is None else self._sent_before + self._sent_between.join(texts) + self._sent_after


def in_runs(
    events: bytes,
    end_of_run: Callable[[list[bytes], int], int],
    relay: Callable[[bytes], bytes | None],
    translate: Callable[[bytes], bytes],
) -> bytes:
    """``events`` of which some are alike and some are not: a run of those that are goes on by ``relay``, each of the
    others by ``translate``, from which on others may be alike. ``end_of_run`` is :meth:`EventShape.end_of_run`."""
    parts, start, done = events.split(b"\n\n")[:-1], 0, []
    while start < len(parts):
        end = end_of_run(parts, start)
        relayed = relay(b"\n\n".join(parts[start:end]) + b"\n\n") if end - start > 1 else None
        if relayed is not None:
            done.append(relayed)
        else:  # one event, or some that only looked alike
            end = max(end, start + 1)
            done += [translate(part + b"\n\n") for part in parts[start:end]]
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
