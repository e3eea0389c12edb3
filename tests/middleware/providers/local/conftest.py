"""Fixtures of the engine's tests."""

from engine_process import get, gone  # noqa: F401 (fixtures)
