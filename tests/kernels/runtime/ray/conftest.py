"""Ray for the tests of this directory: without anything of the machine's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ray_directory() -> Iterator[str]:
    """One for all: Ray keeps the token that its process has read first."""
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        yield directory


@pytest.fixture(scope="module")
def ray_config(ray_directory: str) -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, "set, so that it is restored")
            patch.delenv(name)
        patch.setenv("SAGE_DATA_DIR", f"{ray_directory}/data")
        patch.setenv("HOME", ray_directory)  # it has no Ray token
        yield {
            "discovery": None,
            "ray": {"num_cpus": 2, "object_store_memory": 80 * 2**20, "temp_dir": f"{ray_directory}/ray"},
        }
