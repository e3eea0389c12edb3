"""Upstream SAGE's module of ``BaseCoMapFunction``."""

from __future__ import annotations

from sage.api.function.kinds import BaseCoMapFunction
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"BaseCoMapFunction": BaseCoMapFunction})
del BaseCoMapFunction
