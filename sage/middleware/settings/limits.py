"""The settings of rate limits: what a key, a user, a tenant or a model may take in a minute, and at one time."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

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
