"""``sage db …``: moves an installation from SQLite to PostgreSQL, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.errors import ConfigError
from sage.middleware.cli.config import ConfigFile
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, print_json, print_table
from sage.middleware.cli.progress import showing_steps
from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings

if TYPE_CHECKING:
    from sage.middleware.database.copying import RoomFile
    from sage.middleware.settings.database import DatabaseUrl
    from sage.middleware.settings.settings import Settings

db_app = typer.Typer(help="Move this installation to another database.", no_args_is_help=True)


@db_app.callback()
def db() -> None:
    """Move this installation to another database."""


@db_app.command("copy")
def db_copy(
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            help="The empty PostgreSQL database: postgresql://user:password@host:5432/name. Without it, the one that "
            "the setting 'database' names, where nobody sees its password.",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="DIRECTORY", help="The data directory to copy from. Without it, the configured one."
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy all that SQLite files hold into an empty PostgreSQL database: everything, or nothing.

    End the gateway first. The files stay as they are.
    """
    settings, database = _with_database(config, "--to", to)
    from sage.middleware.database.copying import copy_rooms

    data_dir = source or settings.data_dir
    if not data_dir.is_dir():
        raise ConfigError(f"{data_dir} is no directory; --from names a data directory")
    with showing_steps("rows") as show:
        counts = copy_rooms(_rooms(data_dir), data_dir, database, show)
    done = _("copied to {place}; the files in {directory} are as they were")
    _report(counts, done.format(place=database.shown, directory=data_dir), as_json)


@db_app.command("export")
def db_export(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="The new data directory; not there yet, or empty.")
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="The PostgreSQL database: postgresql://user:password@host:5432/name. Without it, the one that the "
            "setting 'database' names, where nobody sees its password.",
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy all that a PostgreSQL database holds into SQLite files of a new data directory: everything, or nothing.

    End the gateways first. The database stays as it is.
    """
    database = _with_database(config, "--from", source)[1]
    from sage.middleware.database.copying_back import copy_back

    with showing_steps("rows") as show:
        counts = copy_back(_rooms(directory), directory, database, show)
    done = _("copied into {directory}; {place} is as it was")
    _report(counts, done.format(directory=directory, place=database.shown), as_json)


def _with_database(config: Path | None, option: str, url: str | None) -> tuple[Settings, DatabaseUrl]:
    """The settings, and the PostgreSQL database that ``option`` or they name."""
    named = {} if url is None else {"database": url}
    settings = load_settings(find_config(config, os.environ), os.environ, named, sections=CLIENT_SECTIONS)
    if settings.database is None:
        raise ConfigError(f"which database? name it with the setting 'database', or with {option} postgresql://…")
    return settings, settings.database


def _report(counts: Mapping[str, int], done: str, as_json: bool) -> None:
    """How many rows of each table were copied."""
    if as_json:
        print_json({"tables": counts})
        return
    print_table(("TABLE", "ROWS"), counts.items())
    typer.echo(done)


def _rooms(data_dir: Path) -> list[RoomFile]:
    """Every room with tables, and its file."""
    from sage.middleware.audit.database import SCHEMA as AUDIT
    from sage.middleware.auth.database import SCHEMA as ACCOUNTS
    from sage.middleware.budgets.database import SCHEMA as BUDGETS
    from sage.middleware.database.copying import RoomFile
    from sage.middleware.mcp.pins.database import SCHEMA as MCP_PINS
    from sage.middleware.queue.database import SCHEMA as JOBS
    from sage.middleware.responses.database import SCHEMA as RESPONSES
    from sage.middleware.usage.database import SCHEMA as USAGE
    from sage.middleware.vector_stores.database import SCHEMA as VECTOR_STORES
    from sage.middleware.vector_stores.records import FILE

    return [
        *(RoomFile(schema, data_dir / "sage.db") for schema in (ACCOUNTS, BUDGETS, AUDIT, MCP_PINS)),
        RoomFile(JOBS, data_dir / "queue" / "jobs.db"),
        RoomFile(USAGE, data_dir / "usage.db"),
        RoomFile(VECTOR_STORES, data_dir / FILE),
        RoomFile(RESPONSES, data_dir / "responses.db"),
    ]
