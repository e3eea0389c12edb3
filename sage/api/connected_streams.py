"""Upstream SAGE's module of ``ConnectedStreams``."""

from __future__ import annotations

from sage.api.stream import Stream
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"ConnectedStreams": Stream})
del Stream
