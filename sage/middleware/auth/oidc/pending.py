"""A login at a provider that has begun."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """What its browser keeps until it comes back."""

    state: str
    nonce: str
    verifier: str
