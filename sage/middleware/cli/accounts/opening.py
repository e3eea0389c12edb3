"""What the commands on accounts have in common: the data directory opened, its errors as one line, and limits.

``sage.middleware.auth`` is imported when a command runs, so that ``sage --help`` and all other commands start fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.errors import SageError
from sage.middleware.cli.accounts.budgets import amount_text_of, budget_text
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated

if TYPE_CHECKING:
    from sage.middleware.auth.accounts import Accounts
    from sage.middleware.settings.limits import Limits
    from sage.middleware.settings.settings import Settings

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The configuration file to read.", show_default=False)
]
Rpm = Annotated[int | None, typer.Option("--rpm", metavar="N", min=0, help="Requests in any minute; 0 means no bound.")]
Tpm = Annotated[int | None, typer.Option("--tpm", metavar="N", min=0, help="Tokens in any minute; 0 means no bound.")]
Concurrent = Annotated[
    int | None, typer.Option("--concurrent", metavar="N", min=0, help="Requests at one time; 0 means no bound.")
]
Note = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A note, shown with it.")]


@contextmanager
def open_accounts(config: Path | None) -> Iterator[Accounts]:
    """The accounts of the configured data directory; a :class:`SageError` ends the command with one line on stderr."""
    from sage.middleware.auth.accounts import Accounts

    try:
        settings = read_settings(config)
        accounts = Accounts(settings.data_dir, settings.auth, url=settings.database)
        try:
            yield accounts
        finally:
            accounts.close()
    except SageError as exc:
        raise failed(exc.message) from exc


def read_settings(config: Path | None) -> Settings:
    """What commands need of the configuration. Raises :class:`sage.errors.ConfigError`."""
    from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings

    return load_settings(find_config(config, os.environ), os.environ, sections=CLIENT_SECTIONS)


def limits_of(rpm: int | None, tpm: int | None, concurrent: int | None, now: Limits | None = None) -> Limits | None:
    """The limits ``now`` with these changed; ``None`` means that nothing is bounded."""
    from sage.middleware.settings.limits import Limits

    bounds = {} if now is None else now.model_dump(exclude_none=True)
    given = {"rpm": rpm, "tpm": tpm, "concurrent": concurrent}
    bounds |= {name: bound for name, bound in given.items() if bound is not None}
    bounds = {name: bound for name, bound in bounds.items() if bound}
    return Limits(**bounds) if bounds else None


def limits_text(limits: Mapping[str, int] | None) -> str:
    return "" if limits is None else ", ".join(f"{name} {bound}" for name, bound in limits.items()) or _("none")


def print_details(view: Mapping[str, Any]) -> None:
    """Each field of a view on its line; what it does not have is left out."""
    for name, value in view.items():
        if value is None or value == [] or value == "":
            continue
        if name.endswith("_at"):
            text = date(value)
        elif name == "budget":
            text = budget_text(value)
        elif name == "member_budget":
            text = amount_text_of(value)
        elif isinstance(value, dict):
            text = ", ".join(f"{key} {inner}" for key, inner in value.items()) or _("none")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        typer.echo(f"{name:20}{text}".rstrip())


def failed(message: str, status: int = 1) -> typer.Exit:
    tell(f"sage: {' '.join(translated(message).splitlines())}")
    return typer.Exit(status)


def tell(text: str) -> None:
    typer.echo(text, err=True)


def date(seconds: int | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
