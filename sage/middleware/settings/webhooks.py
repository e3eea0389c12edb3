"""The section ``queue.webhooks``: whom the gateway tells that a job has ended."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from sage.addresses import AllowedHosts
from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Duration, Text


def _webhook_host(entry: str) -> str:
    AllowedHosts([entry], "queue.webhooks.hosts")
    return entry


def webhook_key(secret: SecretStr) -> bytes:
    """The bytes that webhooks are signed with: base64, after ``whsec_`` if that is there (standardwebhooks.com)."""
    text = secret.get_secret_value().strip().removeprefix("whsec_")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError("secret is not 24 to 64 bytes in base64; openssl rand -base64 32 makes one")
    return key


def _webhook_secret(value: SecretStr) -> SecretStr:
    webhook_key(value)
    return value


class WebhookSettings(SettingsSection):
    """Where the end of a job may be told, and how often that is tried."""

    hosts: tuple[Annotated[Text, AfterValidator(_webhook_host)], ...] = ()
    """Hosts that jobs may name, as :class:`sage.addresses.AllowedHosts` reads them."""
    secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = None
    """What they are signed with, as Standard Webhooks: ``whsec_`` and base64."""
    attempts: int = Field(10, ge=1, le=50)
    retry_after: Duration = 5.0
    """Seconds until the second attempt. Each further pause is three times as long, six hours at most."""
    timeout: Duration = 10.0
    """Seconds that a receiver has to answer."""

    @model_validator(mode="after")
    def _hosts_need_a_secret(self) -> Self:
        if self.hosts and self.secret is None:
            raise ValueError("hosts needs 'secret', with which receivers check who calls: openssl rand -base64 32")
        return self
