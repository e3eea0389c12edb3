"""``sage serve``."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from sage.middleware.app.loading import quick_loading
from sage.middleware.cli.config import ConfigFile
from sage.middleware.cli.language.templates import translated
from sage.middleware.settings.reading import find_config, read_settings


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
    loaded = read_settings(path, dict(os.environ), overrides)
    with quick_loading():
        from sage.middleware.app.server import serve  # imported here: `sage token` need not load the server

    serve(loaded.settings, path, translated, loaded)
