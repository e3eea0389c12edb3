"""The setting that names a PostgreSQL database; without it, SQLite files in ``data_dir`` hold everything."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

_SCHEMES = ("postgresql", "postgres")


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
    # No message repeats the text, which may hold a password.
    try:
        parts = urlsplit(url.get_secret_value())
        _ = parts.port
    except ValueError:
        raise ValueError("is no URL; write signs of the password such as @ / [ as %40 %2F %5B") from None
    _check_scheme(parts.scheme)
    name = parts.path.removeprefix("/")
    if not name or "/" in name or any(character.isspace() for character in url.get_secret_value()):
        raise ValueError("is not of the form postgresql://user:password@host:5432/name")
    return url


def _check_scheme(scheme: str) -> None:
    if scheme in _SCHEMES:
        return
    if scheme.partition("+")[0] in _SCHEMES:
        raise ValueError("has a driver in its scheme; write postgresql://…, the driver is psycopg")
    raise ValueError(
        "does not begin with postgresql://, and no other database is known; for SQLite leave it out: its files are in "
        "data_dir"
    )


DatabaseSetting = Annotated[DatabaseUrl, AfterValidator(_checked)]
