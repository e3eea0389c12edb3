"""Upstream SAGE's own packages beside ours: both own the names ``sage.…``, and which is imported is chance."""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import suppress

_THEIRS = re.compile(r"(isage(?:[-_.]+[a-z0-9]+)*?)-[^-]+\.(?:dist|egg)-info", re.IGNORECASE)


def installed_beside() -> list[str]:
    """Names of the distributions of upstream SAGE that are installed here.

    From the names of directories alone: to read the metadata of all that is installed takes thirty times as long.
    """
    found = set()
    for place in sys.path:
        with suppress(OSError):
            for entry in os.listdir(place or "."):
                if match := _THEIRS.fullmatch(entry):
                    found.add(re.sub(r"[-_.]+", "-", match[1]).lower())
    return sorted(found)


def warn_of_upstream() -> None:
    """Warns when there are any; with Python's default filters, once a process."""
    if found := installed_beside():
        warnings.warn(
            f"{', '.join(found)} of upstream SAGE is installed beside intellistream-sage-middleware; both own the "
            f"names 'sage.…', and imports of one may find the other: pip uninstall {' '.join(found)}",
            UserWarning,
            stacklevel=3,
        )
