"""``sage mcp``: the MCP servers behind the gateway, and which of their tools are accepted.

It works on the data directory, with or without a server; a running one follows within a second.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.errors import NotFound
from sage.middleware.cli.config import ConfigFile
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from sage.middleware.mcp.pins.store import PinnedTool, Pins
    from sage.middleware.settings.settings import Settings

mcp_app = typer.Typer(no_args_is_help=True, help="Manage the tools of MCP servers behind the gateway.")

Server = Annotated[str, typer.Argument(metavar="SERVER", help="The server's name in mcp.servers.", show_default=False)]


@mcp_app.command("list")
def mcp_list(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """List the MCP servers of the configuration, and how many of their tools are accepted and held back."""
    with _opened(config) as (settings, pins):
        counts = {name: Counter(tool.state for tool in pins.of(name)) for name in settings.mcp.servers}
    rows = [
        {
            "name": name,
            "transport": "http" if server.url is not None else "stdio",
            "address": server.url or " ".join(server.command),
            "accepted": counts[name]["accepted"],
            "held": counts[name]["new"] + counts[name]["changed"],
        }
        for name, server in settings.mcp.servers.items()
    ]
    if as_json:
        print_json({"servers": rows})
        return
    if not rows:
        typer.echo(_("no MCP servers are configured (mcp.servers)"))
        return
    print_table(("NAME", "BY", "ADDRESS", "ACCEPTED", "HELD"), [tuple(row.values()) for row in rows])


@mcp_app.command("tools")
def mcp_tools(
    server: Server,
    held: Annotated[bool, typer.Option("--held", help="Only those that wait to be accepted.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List the tools that an MCP server has offered, with their descriptions as they are offered now."""
    with _opened(config) as (settings, pins):
        _require(settings, server)
        tools = [tool for tool in pins.of(server) if not held or tool.state != "accepted"]
    if as_json:
        print_json({"tools": [{**asdict(tool), "state": tool.state} for tool in tools]})
        return
    if not tools:
        typer.echo(_("no tools"))
        return
    print_table(("TOOL", "STATE", "DIGEST", "DESCRIPTION"), map(_cells, tools))


@mcp_app.command("accept")
def mcp_accept(
    server: Server,
    tool: Annotated[
        list[str] | None, typer.Argument(metavar="TOOL", help="The tools to accept.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the server offers now.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Accept tools of an MCP server as they are offered now. Look at them first, with 'sage mcp tools'."""
    if everything == bool(tool):
        raise typer.BadParameter(_("name the tools, or give --all"))
    from sage.middleware.audit.event import OPERATOR, AuditEvent
    from sage.middleware.audit.log import AuditLog

    with _opened(config) as (settings, pins):
        _require(settings, server)
        names = pins.accept(server, None if everything else dict.fromkeys(tool or ()), OPERATOR)
        if names:
            log = AuditLog(settings.data_dir, settings.database)
            log.append(AuditEvent("mcp.accept", f"mcp:{server}", OPERATOR, details={"tools": names}))
            log.close()
    if as_json:
        print_json({"accepted": names})
        return
    typer.echo(_("accepted: {names}").format(names=", ".join(names)) if names else _("nothing was held back"))


@contextmanager
def _opened(config: Path | None) -> Iterator[tuple[Settings, Pins]]:
    """The configuration, and the pins of its installation."""
    from sage.middleware.mcp.pins.store import Pins
    from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings

    sections = CLIENT_SECTIONS | {"mcp"}
    settings = load_settings(find_config(config, os.environ), os.environ, sections=sections)
    pins = Pins(settings.data_dir, settings.database)
    try:
        yield settings, pins
    finally:
        pins.close()


def _require(settings: Settings, server: str) -> None:
    if server not in settings.mcp.servers:
        known = ", ".join(sorted(settings.mcp.servers)) or "-"
        raise NotFound(_("there is no MCP server '{name}'; configured: {known}").format(name=server, known=known))


def _cells(tool: PinnedTool) -> tuple[object, ...]:
    description = " ".join(str(tool.definition.get("description", "")).split())
    return (tool.name, tool.state, tool.offered[:12], description[:80])
