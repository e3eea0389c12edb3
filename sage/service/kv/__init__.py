"""The key-value service. Its names can be imported from here as from :mod:`sage.service`."""

from __future__ import annotations

from typing import Any

import sage.service

_NAMES = ("KVService", "create_kv_service_factory")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(sage.service, name)
