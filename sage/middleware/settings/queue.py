"""The section ``queue``: the broker of jobs, Flower, and webhooks."""

from __future__ import annotations

from pydantic import SecretStr

from sage.middleware.settings.flower import FlowerSettings
from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.webhooks import WebhookSettings


class QueueSettings(SettingsSection):
    """Where jobs will run. This version has none; it reads the keys, so that a configuration with them works."""

    broker: SecretStr | None = None
    """A URL, which may hold a password."""
    backend: SecretStr | None = None
    flower: FlowerSettings = FlowerSettings()
    webhooks: WebhookSettings = WebhookSettings()
