"""Where the request comes from that is served now."""

from __future__ import annotations

from contextvars import ContextVar

caller_address: ContextVar[str] = ContextVar("caller_address", default="")
"""The client's address; empty outside of requests. A context variable, since what changes an account is far below what
knows of HTTP."""
