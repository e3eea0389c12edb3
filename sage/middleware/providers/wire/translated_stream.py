"""The base of relays that translate a vendor's stream of JSON event by event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.chunks import ChunkWriter, JsonStream
from sage.middleware.providers.wire.errors import first_error


class TranslatedStream(ABC):
    """A :class:`~sage.middleware.providers.base.Relay`; an adapter says what each event becomes, and what the end.

    An error ends it: what was translated before is good, and is returned.
    """

    def __init__(self, model: str, *, keep_usage: bool, on_error: Callable[[Any], SageError]) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self.error: SageError | None = None
        self._on_error = on_error
        self._events = JsonStream()
        self._writer = ChunkWriter(model, keep_usage=keep_usage)

    def feed(self, data: bytes) -> bytes:
        return b"" if self.finished or self.error is not None else self._translated(self._events.feed(data))

    def close(self) -> bytes:
        rest = b"" if self.finished or self.error is not None else self._translated(self._events.close())
        if self.error is not None:
            raise self.error
        return rest if self.finished else rest + self._ended()

    def _translated(self, events: Iterable[Any]) -> bytes:
        pieces = []
        try:
            for event in events:
                pieces.append(self._event(first_error(event)))
                if self.finished:
                    break
        except SageError as error:
            self.error = error
        return b"".join(pieces)

    @abstractmethod
    def _event(self, event: Any) -> bytes:
        """The events that ``event`` becomes; raises what it reports."""

    @abstractmethod
    def _ended(self) -> bytes:
        """What remains once the stream has come to its clean end without being finished; raises if it was cut off."""
