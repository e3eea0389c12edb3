"""When each API key was last used: noted in memory, written now and then, off the way of requests."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import bindparam, or_, update

from sage.middleware.auth.database import AccountsDatabase
from sage.middleware.auth.models import KeyRow

WRITE_EVERY = 60.0
"""Seconds at most until a use is written."""

_WRITE = (
    update(KeyRow)
    .where(KeyRow.id == bindparam("key"))
    .where(or_(KeyRow.last_used_at.is_(None), KeyRow.last_used_at < bindparam("time")))
    .values(last_used_at=bindparam("time"))
)


class KeyUse:
    """Writes when keys were used."""

    def __init__(self, database: AccountsDatabase) -> None:
        self._database = database

    def write(self, uses: Mapping[str, float]) -> None:
        """``uses`` are Unix seconds by credential (``key:<id>``); others than keys are left out. No right changes, so
        the revision of rights stays."""
        rows = [
            {"key": credential.removeprefix("key:"), "time": int(used_at)}
            for credential, used_at in sorted(uses.items())  # in one order: several gateways may write
            if credential.startswith("key:")
        ]
        if rows:
            with self._database.writing(alone=False) as connection:
                connection.execute(_WRITE, rows)
