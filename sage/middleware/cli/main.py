"""The ``sage`` command. Exit codes: 0 done; 1 failed, with one clear line on stderr; 2 wrong usage."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from sage.errors import SageError
from sage.middleware.app.loading import quick_loading
from sage.middleware.app.version import version
from sage.middleware.cli.accounts.keys import key_app
from sage.middleware.cli.accounts.teams import team_app
from sage.middleware.cli.accounts.token import token_command
from sage.middleware.cli.accounts.users import user_app
from sage.middleware.cli.audit import audit_app
from sage.middleware.cli.budgets import budget_app
from sage.middleware.cli.chat.command import chat
from sage.middleware.cli.collections import collections_app
from sage.middleware.cli.config import ConfigFile, config_app
from sage.middleware.cli.databases import db_app
from sage.middleware.cli.flower import flower_command
from sage.middleware.cli.import_command import import_app
from sage.middleware.cli.ingest_command import ingest
from sage.middleware.cli.language.framework import CommandGroup
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.models import generate, models_app
from sage.middleware.cli.search import search
from sage.middleware.cli.services import services_app
from sage.middleware.cli.tasks.command import tasks_app
from sage.middleware.cli.usage import usage
from sage.middleware.cli.worker import worker_command
from sage.middleware.settings.reading import find_config, load_settings

app = typer.Typer(
    name="sage",
    cls=CommandGroup,
    help="A team's LLM gateway and model manager. Start with 'sage serve'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def serve_command(
    config: ConfigFile = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="The address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for others too."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="The port to listen on; 0 takes a free one.", min=0, max=65535)
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth", help="Ask nobody for a key or password; only for an address that this machine alone reaches."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            help="Processes that take requests; the setting api.workers, which is 1 by default.",
            min=1,
        ),
    ] = None,
) -> None:
    """Run the gateway, until Ctrl-C."""
    overrides: dict[str, Any] = {}
    if host is not None:
        overrides["api.host"] = host
    if port is not None:
        overrides["api.port"] = port
    if no_auth:
        overrides["auth.enabled"] = False
    if workers is not None:
        overrides["api.workers"] = workers
    path = find_config(config, os.environ)
    settings = load_settings(path, os.environ, overrides)
    with quick_loading():
        from sage.middleware.app.server import serve  # imported here: `sage token` need not load the server

    serve(settings, path, translated)


def openapi_command() -> None:
    """Print the OpenAPI document of the gateway."""
    from sage.middleware.app.main import openapi_document

    typer.echo(json.dumps(openapi_document(), indent=2))


def version_command() -> None:
    """Print the version of this program."""
    typer.echo(version())


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(version())
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version of this program and exit."
        ),
    ] = False,
) -> None:
    """The options that stand before any command."""


# In the order in which the help page shows them: commands, then groups of commands.
app.command("serve")(serve_command)
app.command("chat")(chat)
app.command("generate")(generate)
app.command("search")(search)
app.command("ingest")(ingest)
app.command("usage")(usage)
app.command("worker")(worker_command)
app.command("flower")(flower_command)
app.command("token")(token_command)
app.command("openapi")(openapi_command)
app.command("version")(version_command)
app.add_typer(models_app, name="models")
app.add_typer(collections_app, name="collections")
app.add_typer(tasks_app, name="tasks")
app.add_typer(services_app, name="services")
app.add_typer(user_app, name="user")
app.add_typer(team_app, name="team")
app.add_typer(key_app, name="key")
app.add_typer(budget_app, name="budget")
app.add_typer(audit_app, name="audit")
app.add_typer(config_app, name="config")
app.add_typer(db_app, name="db")
app.add_typer(import_app, name="import")


def main() -> None:
    """The entry point: a :class:`SageError` becomes one line on stderr and exit code 1."""
    try:
        app(prog_name="sage")
    except SageError as exc:
        sys.stderr.write(f"sage: {translated(exc.message)}\n")
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
