"""Upstream SAGE's module of ``SinkFunction``."""

from __future__ import annotations

from sage.api.function.kinds import SinkFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"SinkFunction": SinkFunction})
del SinkFunction
