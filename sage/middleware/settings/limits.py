"""The settings of rate limits: what a key, a user, a tenant or a model may take in a minute, and at one time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from sage.middleware.settings.providers import SettingsSection


class Limits(SettingsSection):
    """Bounds on calls of models. ``None`` means no bound."""

    rpm: int | None = Field(None, ge=1)
    """Requests in any 60 seconds."""
    tpm: int | None = Field(None, ge=1)
    """Tokens in any 60 seconds, of prompts and answers together."""
    concurrent: int | None = Field(None, ge=1)
    """Requests at one time."""


class RoleSettings(SettingsSection):
    """What users of a role get who have nothing of their own."""

    limits: Limits | None = None
    """Of each user, all its keys together. ``None`` means no bounds."""


@dataclass(frozen=True, slots=True)
class SubjectLimits:
    """Bounds on all calls of one subject together.

    A subject is ``key:<id>``, ``user:<name>``, ``tenant:<name>`` or ``model:<public name>``.
    """

    subject: str
    limits: Limits


def _redis_url(url: SecretStr) -> SecretStr:
    # The message does not repeat the text, which may hold a password.
    try:
        parts = urlsplit(url.get_secret_value())
        good = parts.scheme in ("redis", "rediss") and parts.hostname and (parts.port is None or parts.port > 0)
        good = good and re.fullmatch(r"(/\d*)?", parts.path) and not re.search(r"\s", url.get_secret_value())
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            "is not the URL of a Redis server such as redis://user:password@localhost:6379/0 (rediss:// with TLS); "
            "what stands there is not shown"
        )
    return url


class LimitsSettings(SettingsSection):
    """Where rate limits are counted."""

    redis: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    """A Redis or Valkey that several gateways count in together; ``None`` means that each counts for itself."""
