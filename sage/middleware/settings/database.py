"""The setting that names a PostgreSQL database; without it, SQLite files in ``data_dir`` hold everything."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, SecretStr

_SCHEMES = ("postgresql", "postgres")
_LOCAL = "for SQLite leave 'database' out: its files are in data_dir"


class DatabaseUrl(SecretStr):
    """``postgresql://user:password@host:5432/name``, with libpq's parameters after ``?``. Shown without its secrets."""

    @property
    def conninfo(self) -> str:
        """As libpq takes it, with its password."""
        return self.get_secret_value()

    @property
    def shown(self) -> str:
        """For messages: who and where, never the password or a parameter."""
        parts = urlsplit(self.get_secret_value())
        user = f"{parts.username}@" if parts.username else ""
        return f"postgresql://{user}{parts.netloc.rpartition('@')[2]}{parts.path}"


def _checked(url: DatabaseUrl) -> DatabaseUrl:
    # The messages do not repeat the text, which may hold a password.
    try:
        parts = urlsplit(url.get_secret_value())
        _check_scheme(parts)
        name = parts.path.removeprefix("/")
        if not name or "/" in name or any(character.isspace() for character in url.get_secret_value()):
            raise ValueError("is not of the form postgresql://user:password@host:5432/name")
    except ValueError as exc:
        reason = str(exc) if str(exc).startswith(("is ", "has ")) else "is no URL; percent-encode signs in the password"
        raise ValueError(f"{reason} (what stands there is not shown)") from None
    return url


def _check_scheme(parts: SplitResult) -> None:
    scheme = parts.scheme.partition("+")[0]
    if scheme in _SCHEMES and "+" not in parts.scheme:
        return
    if scheme in _SCHEMES:
        raise ValueError("has a driver in its scheme; write postgresql://…, the driver is psycopg")
    if scheme in ("sqlite", "file", ""):
        raise ValueError(f"is no postgresql:// URL; {_LOCAL}")
    raise ValueError(f"has a scheme that is not known; postgresql://user:password@host:5432/name is; {_LOCAL}")


DatabaseSetting = Annotated[DatabaseUrl, AfterValidator(_checked)]
