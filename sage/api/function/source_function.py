"""Upstream SAGE's module of ``SourceFunction`` and ``StopSignal``."""

from __future__ import annotations

from sage.api.function.kinds import SourceFunction, StopSignal
from sage.api.upstream_names import moved_names

__getattr__ = moved_names(__name__, {"SourceFunction": SourceFunction, "StopSignal": StopSignal})
del SourceFunction, StopSignal
