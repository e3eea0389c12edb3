"""The installed version."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version


@functools.cache
def version() -> str:
    """The distribution's version; ``0+source`` for a source tree that is not installed."""
    try:
        return installed_version("intellistream-sage-middleware")
    except PackageNotFoundError:
        return "0+source"
