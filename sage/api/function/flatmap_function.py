"""Upstream SAGE's module of ``FlatMapFunction``."""

from __future__ import annotations

from sage.api.function.kinds import FlatMapFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"FlatMapFunction": FlatMapFunction})
del FlatMapFunction
