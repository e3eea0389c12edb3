"""What is told of the configuration: digests of it, never what it says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sage.middleware.audit.event import OPERATOR, AuditEvent
from sage.middleware.audit.log import AuditLog
from sage.middleware.settings.settings import Settings

ACTION = "config.start"


def note_configuration(log: AuditLog, settings: Settings, version: str) -> None:
    """Appends an event when the gateway starts with another configuration, or version, than it did the last time.

    Secrets are masked before the digest is made, so one that is replaced by another does not show. Blocks.
    """
    sections = {name: _digest(value) for name, value in settings.model_dump(mode="json").items()}
    before = log.last(ACTION)
    known = before["details"] if before is not None else {}
    details: dict[str, Any] = {"version": version, "sections": sections}
    if {name: known.get(name) for name in details} == details:
        return
    old = known.get("sections") or {}
    changed = sorted(name for name in sections.keys() | old.keys() if sections.get(name) != old.get(name))
    log.append(AuditEvent(ACTION, "config", OPERATOR, details={**details, "changed": changed}))


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
