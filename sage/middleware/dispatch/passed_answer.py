"""An answer that goes on as it comes, whatever its type: sounds, pictures, texts, or events of a kind of their own."""

from __future__ import annotations

from typing import cast

from sage.middleware.dispatch.upstream_answer import UpstreamStream
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.wire.passing import PassingRelay


class PassedAnswer(UpstreamStream):
    """As :class:`UpstreamStream`. Its first bytes are its beginning; it may be empty."""

    __slots__ = ()

    async def begin(self) -> None:
        relay = self._passing
        relay.start(self._response.headers)
        body = b""
        while not body and not relay.finished:
            data = await self._response.chunk()
            body = relay.feed(data) if data else relay.close()
            if relay.error is not None:
                raise relay.error
        self.body = body

    @property
    def _passing(self) -> PassingRelay:
        return cast(PassingRelay, self._relay)

    @property
    def media_type(self) -> str:
        """The ``Content-Type`` that the upstream gave."""
        return self._passing.media_type

    @property
    def is_events(self) -> bool:
        """Whether an error can still be told once it has begun."""
        return self._passing.is_events


def takes_its_time(call: ModelCall) -> bool:
    """Whether the upstream works out all of the answer before its first byte: then only ``timeouts.total`` counts."""
    return call.operation is not Operation.SPEECH and call.body.get("stream") is not True
