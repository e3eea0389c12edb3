"""The audit of a gateway, made of its settings."""

from __future__ import annotations

from functools import partial

from sage.middleware.app.version import version
from sage.middleware.audit.configuration import note_configuration
from sage.middleware.audit.log import AuditLog
from sage.middleware.audit.upkeep import AuditUpkeep
from sage.middleware.auth.accounts import Accounts
from sage.middleware.settings.settings import Settings


def make_audit_upkeep(log: AuditLog, accounts: Accounts | None, settings: Settings) -> AuditUpkeep:
    """What keeps ``log`` while a gateway with ``settings`` runs."""
    failures = accounts.login_failures if accounts is not None else None
    at_start = partial(note_configuration, log, settings, version())
    return AuditUpkeep(log, failures, settings.audit.anchors, at_start)
