"""The settings of responses that are kept (``/v1/responses``)."""

from __future__ import annotations

from pydantic import Field

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration


class ResponsesSettings(SettingsSection):
    """Responses that callers have kept, which is what they ask for unless they say ``store: false``."""

    ttl: Duration = Field(30 * 86400.0, gt=0)
    """How long a response is kept, in seconds."""
