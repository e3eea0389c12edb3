"""Upstream SAGE's module of ``MapFunction``."""

from __future__ import annotations

from sage.api.function.kinds import MapFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"MapFunction": MapFunction})
del MapFunction
