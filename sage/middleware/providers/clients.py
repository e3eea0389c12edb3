"""Which HTTP client sends requests to upstreams (``llm.transport``)."""

from __future__ import annotations

from sage.middleware.providers.http.transport import HttpTransport
from sage.middleware.providers.transport import Transport
from sage.middleware.settings.settings import TransportKind


def make_transport(kind: TransportKind = "builtin") -> Transport:
    """The client of that ``kind``. It belongs to the event loop in which it is first used."""
    if kind == "builtin":
        return HttpTransport()
    from sage.middleware.providers.aiohttp_client.transport import AiohttpTransport

    return AiohttpTransport()
