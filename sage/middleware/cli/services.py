"""``sage services …``: the services that a running gateway knows (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, plain, print_json, print_table
from sage.middleware.client.connection import connect

services_app = typer.Typer(help="See the services that a running gateway has or can reach.", no_args_is_help=True)


@services_app.command("list")
def list_services(as_json: AsJson = False) -> None:
    """List the services that run, in this and in other environments."""
    answer = connect().get("/services")
    if as_json:
        print_json(answer)
        return
    print_table(
        ("NAME", "ENVIRONMENT", "STATE", "CLASS", "HOST", "REPLICAS", "CALLS", "ERRORS"), map(_row, answer["services"])
    )
    for warning in answer["warnings"]:
        typer.echo(_("note: {warning}").format(warning=plain(warning)), err=True)


def _row(service: dict[str, Any]) -> tuple[object, ...]:
    statistics = service.get("statistics") or {}
    fields = [service.get(field) or "-" for field in ("name", "environment", "state", "class", "host", "replicas")]
    return *fields, statistics.get("calls", "-"), statistics.get("errors", "-")


@services_app.command("show")
def show_service(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The service's name, as 'sage services list' shows it.", show_default=False
        ),
    ],
    environment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The environment that it runs in; needed only where several have the name."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one service: its state, its methods and its statistics."""
    query = {} if environment is None else {"environment": environment}
    service = connect().get(f"/services/{name}", **query)
    if as_json:
        print_json(service)
        return
    for field, value in service.items():
        if value is not None:
            shown = ", ".join(value) if isinstance(value, list) else value
            typer.echo(f"{field}: {plain(json.dumps(shown) if isinstance(shown, dict) else shown)}")
