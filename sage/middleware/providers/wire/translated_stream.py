"""The base of relays that translate a vendor's stream of JSON event by event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from sage.errors import SageError, UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.wire.chunks import ChunkWriter, JsonStream
from sage.middleware.providers.wire.errors import first_error
from sage.middleware.providers.wire.event_bytes import cut_off


class TranslatedStream(ABC):
    """A :class:`~sage.middleware.providers.base.Relay`; an adapter says what each event becomes, and what the end.

    An error ends it: what was translated before is good, and is returned. The role is sent with the first words of each
    choice: an answer that fails before it has sent nothing, and another deployment can take over.
    """

    def __init__(
        self, model: str, *, keep_usage: bool, on_error: Callable[[Any], SageError], chat: bool = True
    ) -> None:
        self.usage: Usage | None = None
        self.finished = False
        self.error: SageError | None = None
        self._on_error = on_error
        self._events = JsonStream()
        self._writer = ChunkWriter(model, keep_usage=keep_usage, chat=chat)
        self._begun: set[int] = set()
        """The choices whose role is sent."""

    def feed(self, data: bytes) -> bytes:
        return b"" if self.finished or self.error is not None else self._translated(self._events.feed(data))

    def close(self) -> bytes:
        rest = b"" if self.finished or self.error is not None else self._translated(self._last_events())
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

    def _last_events(self) -> list[Any]:
        """What is in a last line without its end."""
        try:
            return list(self._events.close())
        except UpstreamFailed as exc:
            raise cut_off() from exc  # half a line

    def _delta(self, delta: dict[str, Any], finish: str | None = None, index: int = 0, /, **fields: Any) -> bytes:
        """A chunk of one choice."""
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
        return self._writer.delta(delta, finish, index=index, **fields)

    @abstractmethod
    def _event(self, event: Any) -> bytes:
        """The events that ``event`` becomes; raises what it reports."""

    def _ended(self) -> bytes:
        """What remains once the stream has come to its clean end without being finished; raises if it was cut off."""
        raise cut_off()
