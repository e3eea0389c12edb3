"""Writes the events of a response, and numbers them.

Source: OpenAI's API reference (responses, *Streaming*).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from sage.middleware.routers.openai.responses import resource

_BEGIN = (
    b'event: response.created\ndata: {"type":"response.created","sequence_number":%d,"response":%b}\n\n'
    b'event: response.in_progress\ndata: {"type":"response.in_progress","sequence_number":%d,"response":%b}\n\n'
)
_TEXT_BEGUN = (
    b'event: response.output_item.added\ndata: {"type":"response.output_item.added","sequence_number":%d,'
    b'"output_index":%d,"item":{"id":"%b","type":"message","status":"in_progress","role":"assistant","content":[]}}\n\n'
    b'event: response.content_part.added\ndata: {"type":"response.content_part.added","sequence_number":%d,'
    b'"item_id":"%b","output_index":%d,"content_index":0,'
    b'"part":{"type":"output_text","annotations":[],"logprobs":[],"text":""}}\n\n'
)
_TEXT_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":',
    b',"item_id":"%b","output_index":%d,"content_index":%d,"delta":"',
    b'","logprobs":[]}\n\n',
)
_NUMBERS = [b"%d" % number for number in range(1_024)]
"""To write a number takes as long as all else of an event."""
_TEXT_ENDED = (
    b'event: response.output_text.done\ndata: {"type":"response.output_text.done","sequence_number":%d,'
    b'"item_id":"%b","output_index":%d,"content_index":0,"text":%b,"logprobs":[]}\n\n'
    b'event: response.content_part.done\ndata: {"type":"response.content_part.done","sequence_number":%d,'
    b'"item_id":"%b","output_index":%d,"content_index":0,'
    b'"part":{"type":"output_text","annotations":[],"logprobs":[],"text":%b}}\n\n'
    b'event: response.output_item.done\ndata: {"type":"response.output_item.done","sequence_number":%d,'
    b'"output_index":%d,"item":{"id":"%b","type":"message","status":"%b","role":"assistant","content":'
    b'[{"type":"output_text","annotations":[],"logprobs":[],"text":%b}]}}\n\n'
)


class RepeatedEvent(NamedTuple):
    """An event without its number and its text: what stands before, between and behind them."""

    before: bytes
    middle: bytes
    after: bytes


class EventWriter:
    """Writes the events of one response, and numbers them."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.response = response
        self.output: list[dict[str, Any]] = []
        """The items that are whole."""
        self._number = 0

    def event(self, kind: str, **fields: Any) -> bytes:
        """One event."""
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(event))

    def repeated(self, form: RepeatedEvent, texts: list[bytes]) -> bytes:
        """Events of that ``form``, one for each of ``texts`` as they stand in JSON."""
        if not texts:
            return b""
        start = self._number
        self._number = end = start + len(texts)
        numbers = _NUMBERS[start:end] if end <= len(_NUMBERS) else [b"%d" % number for number in range(start, end)]
        before, middle, after = form
        return before + (after + before).join(map(middle.join, zip(numbers, texts))) + after  # noqa: B905 costs a call

    def snapshot(self, kind: str) -> bytes:
        """An event that has all of the response."""
        return self.event(kind, response=self.response)

    def begin(self) -> bytes:
        """The first events."""
        response, number = orjson.dumps(self.response), self._number
        self._number = number + 2
        return _BEGIN % (number, response, number + 1, response)

    def text_begun(self, name: str) -> bytes:
        """A message of that name begins, and in it its first part, a text."""
        number, index, item = self._number, len(self.output), name.encode()
        self._number = number + 2
        return _TEXT_BEGUN % (number, index, item, number + 1, item, index)

    def text_delta(self, name: str, part: int, text: str) -> bytes:
        """More of the text that is the part of that number in the message of that name."""
        return self.repeated(self.text_form(name, part), [orjson.dumps(text)[1:-1]])

    def text_form(self, name: str, part: int) -> RepeatedEvent:
        """What :meth:`repeated` makes the deltas of a text of."""
        before, middle, after = _TEXT_DELTA
        return RepeatedEvent(before, middle % (name.encode(), len(self.output), part), after)

    def text_ended(self, name: str, text: str, status: str) -> bytes:
        """A message is whole that has nothing but one ``text``."""
        number, index, item, written = self._number, len(self.output), name.encode(), orjson.dumps(text)
        self._number = number + 3
        self.output.append(resource.message_item(name, [resource.text_part(text)], status))
        done = (number, item, index, written, number + 1, item, index, written)
        return _TEXT_ENDED % (*done, number + 2, index, item, status.encode(), written)

    def added(self, item: dict[str, Any]) -> bytes:
        """An item begins."""
        return self.event("response.output_item.added", output_index=len(self.output), item=item)

    def done(self, item: dict[str, Any]) -> bytes:
        """An item is whole."""
        self.output.append(item)
        return self.event("response.output_item.done", output_index=len(self.output) - 1, item=item)

    def last(self) -> bytes:
        """The last event."""
        return self.snapshot(f"response.{self.response['status']}")
