"""Upstream SAGE's module of ``DataStream``."""

from __future__ import annotations

from sage.api.stream import Stream
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"DataStream": Stream})
del Stream
