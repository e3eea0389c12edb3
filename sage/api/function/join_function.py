"""Upstream SAGE's module of ``BaseJoinFunction``."""

from __future__ import annotations

from sage.api.function.kinds import BaseJoinFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"BaseJoinFunction": BaseJoinFunction})
del BaseJoinFunction
