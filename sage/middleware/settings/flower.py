"""The section ``queue.flower``: the page that shows workers and tasks."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import header_value, http_address

_SHORTEST_PASSWORD = 16  # characters; nothing slows down guesses at Flower's own door


def _flower_url(url: str) -> str:
    """The address of a Flower without the slash at its end; its path is always ``/flower``."""
    parts = http_address(url)
    if parts is None or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            "url is not an http:// or https:// address with a host and a port only, such as http://flower:5555"
        )
    return url.rstrip("/")


def _flower_password(value: SecretStr) -> SecretStr:
    if len(header_value(value).get_secret_value()) < _SHORTEST_PASSWORD:
        raise ValueError(f"password has fewer than {_SHORTEST_PASSWORD} characters; openssl rand -hex 24 makes one")
    return value


class FlowerSettings(SettingsSection):
    """A Flower elsewhere. Without a password ``sage flower`` listens on loopback, with one that it makes itself."""

    url: Annotated[str, AfterValidator(_flower_url)] | None = None
    """Where the gateway finds it, such as ``http://flower:5555``; ``None`` means the one that runs here."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "sage"
    password: Annotated[SecretStr, AfterValidator(_flower_password)] | None = None

    @model_validator(mode="after")
    def _password_for_an_address(self) -> Self:
        if self.url is not None and self.password is None:
            raise ValueError("url needs 'password', the same for the gateway and for 'sage flower'")
        return self
