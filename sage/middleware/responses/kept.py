"""What is kept of a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RUNNING = ("queued", "in_progress")
"""The states of a response in the background that has not ended."""


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response, and the job that makes it, if one does."""

    body: dict[str, Any]
    status: str
    user: str
    job: str | None


@dataclass(frozen=True, slots=True)
class NewResponse:
    """What is kept of a response at first. ``input`` are the items of its own, each with an id."""

    tenant: str
    user: str
    body: dict[str, Any]
    input: Sequence[dict[str, Any]]
    job: str | None = None
