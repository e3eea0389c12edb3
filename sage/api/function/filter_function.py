"""Upstream SAGE's module of ``FilterFunction``."""

from __future__ import annotations

from sage.api.function.kinds import FilterFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"FilterFunction": FilterFunction})
del FilterFunction
