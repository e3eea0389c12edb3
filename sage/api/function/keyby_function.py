"""Upstream SAGE's module of ``KeyByFunction``."""

from __future__ import annotations

from sage.api.function.kinds import KeyByFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"KeyByFunction": KeyByFunction})
del KeyByFunction
