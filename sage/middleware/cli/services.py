"""``sage services …``: which services live, from a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from sage.middleware.cli.columns import plain, table
from sage.middleware.cli.models import AsJson, client

services_app = typer.Typer(help="The services of a running gateway, and those it sees.", no_args_is_help=True)


@services_app.command("list")
def list_services(as_json: AsJson = False) -> None:
    """The services that live, here and in other environments."""
    answer = client().get("/services")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    rows: list[tuple[str, ...]] = [("NAME", "ENVIRONMENT", "STATE", "CLASS", "HOST", "REPLICAS", "CALLS", "ERRORS")]
    rows += [_row(service) for service in answer["services"]]
    for line in table(rows):
        typer.echo(line)
    for warning in answer["warnings"]:
        typer.echo(f"note: {plain(warning)}", err=True)


def _row(service: dict[str, Any]) -> tuple[str, ...]:
    counted = service.get("statistics") or {}
    shown = ("name", "environment", "state", "class", "host", "replicas")
    return (
        *(plain(service.get(field) or "-") for field in shown),
        str(counted.get("calls", "-")),
        str(counted.get("errors", "-")),
    )


@services_app.command("show")
def show_service(
    name: Annotated[str, typer.Argument(help="A service's name, as 'sage services list' shows it.")],
    environment: Annotated[str | None, typer.Option(help="Of that environment.")] = None,
    as_json: AsJson = False,
) -> None:
    """One service: its state, its methods, what it counted."""
    where = f"?environment={quote(environment, safe='')}" if environment is not None else ""
    service = client().get(f"/services/{quote(name, safe='')}{where}")
    if as_json:
        typer.echo(json.dumps(service, indent=2))
        return
    for field, value in service.items():
        if value is not None:
            shown = ", ".join(value) if isinstance(value, list) else value
            typer.echo(f"{field}: {plain(json.dumps(shown) if isinstance(shown, dict) else shown)}")
