"""A word to who runs several gateways on one database and has no Redis to count their limits in."""

from __future__ import annotations

import logging

from sage.errors import SageError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.settings.settings import Settings

logger = logging.getLogger("sage")


def warn_of_separate_counts(settings: Settings, accounts: Accounts | None) -> None:
    """Logs a warning where gateways that share a database would each count limits for themselves. Blocks."""
    if settings.database is None or settings.limits.redis is not None:
        return
    try:
        has_limits = settings.has_limits or (accounts is not None and accounts.has_limits())
    except SageError:
        return  # the database does not answer now, which others tell
    if has_limits:
        logger.warning(
            "limits are set, and 'limits.redis' is not: each gateway on this database counts for itself, so that "
            "callers of N gateways may take N times as much; name one Redis for all of them"
        )
