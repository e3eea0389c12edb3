"""The HTTP clients towards upstreams. Tests of what every client owes take each of them.

``SAGE_TEST_TRANSPORT=aiohttp pytest …`` runs any tests with gateways that have that client instead of the usual one.
"""

from __future__ import annotations

from typing import get_args

import pytest

from sage.middleware.providers.clients import make_transport
from sage.middleware.settings.settings import Llm, Settings, TransportKind

TRANSPORTS: tuple[TransportKind, ...] = get_args(TransportKind)

on_each_transport = pytest.mark.parametrize("transport_kind", TRANSPORTS)

__all__ = ["TRANSPORTS", "make_transport", "on_each_transport", "set_default_transport"]


def set_default_transport(kind: str) -> None:
    """Has every gateway of this process the client ``kind``, unless its settings say another."""
    assert kind in TRANSPORTS
    Llm.model_fields["transport"].default = kind
    Llm.model_rebuild(force=True)
    Settings.model_rebuild(force=True)
