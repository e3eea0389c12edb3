"""The HTTP clients towards upstreams. Tests of what every client owes take each of them.

``SAGE_TEST_TRANSPORT=aiohttp pytest …`` runs any tests with gateways that have that client instead of the usual one.
Gateways of the tests in :data:`UPSTREAM_TESTS` have each of them with full counts (``make check-full``), and the usual
one otherwise, but for those marked ``each_transport``, which always have each.
"""

from __future__ import annotations

import os
from functools import partial
from typing import get_args

import pytest
from project import ROOT

from sage.middleware.providers.base import UpstreamResponse
from sage.middleware.providers.clients import make_transport
from sage.middleware.settings.settings import Llm, Settings, TransportKind

TRANSPORTS: tuple[TransportKind, ...] = get_args(TransportKind)

UPSTREAM_TESTS = (
    "middleware/app/test_departures.py",
    "middleware/app/test_protocol.py",
    "middleware/dispatch/",
    "middleware/gateway/test_admission.py",
    "middleware/gateway/test_failures.py",
    "middleware/gateway/test_upstream_",
    "middleware/providers/test_openai_provider.py",
    "middleware/providers/test_proxies.py",
    "middleware/providers/test_stream_options.py",
    "middleware/providers/test_vendor_corners.py",
    "middleware/routers/test_bytes_of_streams.py",
)
"""The tests of dispatch, of the protocol, of storms, of streams and of departures: paths below ``tests``, or starts."""

on_each_transport = pytest.mark.parametrize("transport_kind", TRANSPORTS)

__all__ = [
    "READERS",
    "TRANSPORTS",
    "make_transport",
    "on_each_transport",
    "set_default_transport",
    "wanted_transports",
    "with_each_reader",
]


async def _read(response: UpstreamResponse, into: list[bytes]) -> None:
    while data := await response.chunk():
        into.append(data)


async def _pour(response: UpstreamResponse, into: list[bytes], *, at_once: int | None = None) -> None:
    def take(data: bytes) -> bool:
        into.append(data)
        return at_once is None or len(into) % at_once > 0

    into.append(await response.chunk())
    while not await response.pour(take):
        pass
    assert await response.pour(take), "the end stays the end"


READERS = {"chunks": _read, "poured": _pour, "poured piece by piece": partial(_pour, at_once=1)}
"""The ways to read an answer: each adds what comes to a list, until the clean end."""
with_each_reader = pytest.mark.parametrize("reader", READERS)


def wanted_transports(metafunc: pytest.Metafunc) -> tuple[TransportKind, ...]:
    """Those that the gateways of a test are to have, if it is to run more than once."""
    if os.environ.get("SAGE_TEST_TRANSPORT") or "transport_kind" in metafunc.fixturenames:
        return ()
    path = metafunc.definition.path.relative_to(ROOT / "tests").as_posix()
    with_each = os.environ.get("SAGE_TEST_FULL") and path.startswith(UPSTREAM_TESTS)
    return TRANSPORTS if with_each or metafunc.definition.get_closest_marker("each_transport") else ()


def set_default_transport(kind: str) -> None:
    """Has every gateway of this process the client ``kind``, unless its settings say another."""
    assert kind in TRANSPORTS
    Llm.model_fields["transport"].default = kind
    Llm.model_rebuild(force=True)
    Settings.model_rebuild(force=True)
