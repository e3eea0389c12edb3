"""What tests of engines share: specs of the fake engine, and the fixtures of engine_process."""

import sys
from collections.abc import Callable

import pytest
from engine_process import get, gone  # noqa: F401 (fixtures)
from project import SCRIPTED

from sage.middleware.providers.base import EngineSpec

FAKE = str(SCRIPTED / "fake_engine.py")


@pytest.fixture
def fake() -> Callable[..., EngineSpec]:
    def spec(mode: str, argument: str = "", *, start_timeout: float = 20) -> EngineSpec:
        return EngineSpec((sys.executable, "-I", "-S", FAKE, mode, argument), start_timeout=start_timeout)

    return spec
