"""What SQLite's failures mean to the callers of a collection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sage.errors import SageError, Unavailable
from sage.sqlite.failures import cause_of, is_damaged, is_full, result_name


def translated(exc: sqlite3.Error, name: str, *, writing: bool = False) -> SageError:
    """The error that tells a caller what happened to the collection ``name``, and what to do."""
    lost = "nothing was written: " if writing else ""
    if is_damaged(exc):
        return SageError(
            f"collection '{name}': {lost}its database truth.db is damaged ({result_name(exc)}); restore the collection "
            "from a snapshot (sage collections restore)",
            code="collection_damaged",
        )
    return Unavailable(f"collection '{name}': {lost}{cause_of(exc)}", code="disk_full" if is_full(exc) else None)


@contextmanager
def faults_of(name: str) -> Iterator[None]:
    """Raises errors of SQLite as ours."""
    try:
        yield
    except sqlite3.Error as exc:
        raise translated(exc, name) from exc
