"""One event of the audit, and the text that its hash is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPERATOR = "operator"
"""The actor of what is done on the machine itself, by who may write the data directory."""
ANYONE = "anonymous"
GENESIS = "0" * 64
"""What the first event has in place of its predecessor's hash."""
_LONGEST = 512
_MOST_DETAILS = 8192
_SECRETS = ("password", "secret", "token", "api_key", "api_keys", "authorization", "headers")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: ``name`` and ``credential`` as an :class:`AuditEvent` has them."""

    name: str = OPERATOR
    credential: str = ""


THE_OPERATOR = Actor()


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """``actor`` did ``action`` to ``target``.

    ``action`` is a noun and a verb (``key.create``); ``target`` a kind, a colon and a name (``key:ab12``). ``actor`` is
    ``user:<name>``, :data:`OPERATOR` or :data:`ANYONE`, ``credential`` what it came with (``key:ab12``,
    ``token:<id>``), ``tenant`` the tenant whose owners may read it; empty for admins alone. ``details`` are values of
    JSON.
    """

    action: str
    target: str
    actor: str
    credential: str = ""
    tenant: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""

    def columns(self) -> dict[str, str]:
        """The texts that are stored: bounded, such that every database holds them, and without secrets."""
        texts = {name: _clean(getattr(self, name)) for name in TEXTS}
        return {**texts, "details": _details_text(self.details)}


TEXTS = ("actor", "credential", "tenant", "action", "target", "address")


def hash_of(seq: int, at: int, texts: Mapping[str, str], previous: str) -> str:
    """SHA-256 over the event as a JSON list without spaces, in ASCII: ``seq``, ``at`` (milliseconds since 1970), actor,
    credential, tenant, action, target, address, details (the text of their JSON), and the hash of the event before."""
    content = [seq, at, *(texts[name] for name in TEXTS), texts["details"], previous]
    return hashlib.sha256(_json(content).encode("ascii")).hexdigest()


def _details_text(details: Mapping[str, Any]) -> str:
    text = _json(_masked(details))
    if len(text) <= _MOST_DETAILS:
        return text
    return _json({"cut": True, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest(), "fields": sorted(details)})


def _masked(value: Any) -> Any:
    """``value`` without what stands under the name of a secret, should it have got here."""
    if isinstance(value, Mapping):
        return {str(key): _masked_field(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(each) for each in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value


def _masked_field(name: str, value: Any) -> Any:
    is_secret = name.lower() in _SECRETS and value not in (None, "", True, False)
    return "***" if is_secret else _masked(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), default=str)


def _clean(text: str) -> str:
    return text[:_LONGEST].replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
