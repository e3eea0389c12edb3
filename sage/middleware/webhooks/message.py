"""One thing that a receiver is to be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """A JSON ``body`` and its ``id``, by which a receiver knows what it has taken already; tried ``attempts`` times."""

    id: str
    body: bytes
    attempts: int = 0
