"""Upstream SAGE's module of ``BatchFunction``."""

from __future__ import annotations

from sage.api.function.kinds import BatchFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"BatchFunction": BatchFunction})
del BatchFunction
