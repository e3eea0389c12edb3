"""For whom code works. Calls of services and work that is put off hand it on, so that what they ask of models is asked
in the name of who began it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

acting_for: ContextVar[Any] = ContextVar("acting_for", default=None)
"""A caller of the gateway (:class:`~sage.middleware.auth.principal.Principal`); ``None`` means nobody in particular.
The services only hand it on."""
