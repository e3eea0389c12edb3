"""The only module that imports Ray: late, since that takes a second and needs an extra."""

from __future__ import annotations

from typing import Any

from sage.errors import MissingExtra


def load_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtra("running services on Ray", "ray") from None
    return ray
