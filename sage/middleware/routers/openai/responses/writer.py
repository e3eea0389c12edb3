"""Writes the events of a response, and numbers them.

Source: OpenAI's API reference (responses, *Streaming*).
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import orjson


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

    def repeated(self, form: bytes, texts: list[bytes]) -> bytes:
        """Events that are alike but for their number and their text, for which ``form`` has ``%d`` and ``%b``."""
        number = self._number
        self._number += len(texts)
        values = chain.from_iterable(zip(range(number, self._number), texts, strict=True))
        return form * len(texts) % tuple(values)

    def snapshot(self, kind: str) -> bytes:
        """An event that has all of the response."""
        return self.event(kind, response=self.response)

    def begin(self) -> bytes:
        """The first events."""
        return self.snapshot("response.created") + self.snapshot("response.in_progress")

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
