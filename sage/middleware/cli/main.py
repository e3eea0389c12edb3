"""All commands of ``sage``."""

from __future__ import annotations

import json

import typer

from sage.middleware.app.version import version
from sage.middleware.cli.accounts.keys import key_app
from sage.middleware.cli.accounts.teams import team_app
from sage.middleware.cli.accounts.token import token_command
from sage.middleware.cli.accounts.users import user_app
from sage.middleware.cli.audit import audit_app
from sage.middleware.cli.budgets import budget_app
from sage.middleware.cli.chat.command import chat
from sage.middleware.cli.collections import collections_app
from sage.middleware.cli.config import config_app
from sage.middleware.cli.databases import db_app
from sage.middleware.cli.flower import flower_command
from sage.middleware.cli.import_command import import_app
from sage.middleware.cli.ingest_command import ingest
from sage.middleware.cli.mcp import mcp_app
from sage.middleware.cli.models import generate, models_app
from sage.middleware.cli.root import make_app, run
from sage.middleware.cli.search import search
from sage.middleware.cli.serve import serve_command
from sage.middleware.cli.services import services_app
from sage.middleware.cli.tasks.command import tasks_app
from sage.middleware.cli.usage import usage
from sage.middleware.cli.worker import worker_command

app = make_app()


def openapi_command() -> None:
    """Print the OpenAPI document of the gateway."""
    from sage.middleware.app.main import openapi_document

    typer.echo(json.dumps(openapi_document(), indent=2))


def version_command() -> None:
    """Print the version of this program."""
    typer.echo(version())


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
app.add_typer(mcp_app, name="mcp")
app.add_typer(config_app, name="config")
app.add_typer(db_app, name="db")
app.add_typer(import_app, name="import")


def main() -> None:
    """Runs the command that the arguments name."""
    run(app)


if __name__ == "__main__":
    main()
