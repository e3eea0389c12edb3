"""Warns of upstream SAGE's own packages beside ours: both have modules ``sage.…``, and either may be imported."""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import suppress

_UPSTREAM = re.compile(r"(isage(?:[-_.]+[a-z0-9]+)*?)-[^-]+\.(?:dist|egg)-info", re.IGNORECASE)


def installed_beside() -> list[str]:
    """Names of the distributions of upstream SAGE that are installed here.

    It looks only at the names of directories: reading the metadata of all packages takes thirty times as long.
    """
    names = set()
    for directory in sys.path:
        with suppress(OSError):
            for entry in os.listdir(directory or "."):
                if match := _UPSTREAM.fullmatch(entry):
                    names.add(re.sub(r"[-_.]+", "-", match[1]).lower())
    return sorted(names)


def warn_of_upstream() -> None:
    """Warns if there are any; with Python's default filters, once in each process."""
    if names := installed_beside():
        warnings.warn(
            f"{', '.join(names)} of upstream SAGE is installed beside intellistream-sage-middleware; both have "
            f"modules 'sage.…', and imports of one may find the other: pip uninstall {' '.join(names)}",
            UserWarning,
            stacklevel=3,
        )
