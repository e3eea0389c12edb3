"""The command ``sage token``."""

from __future__ import annotations

from typing import Annotated

import typer

from sage.middleware.cli.accounts.opening import Config, open_accounts


def token_command(
    user: Annotated[
        str | None,
        typer.Option(
            "--user", metavar="NAME", help="The user that the token belongs to; needed only where there are several."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Print an access token of a local user, which is valid for a short time."""
    with open_accounts(config) as accounts:
        token = accounts.sessions.issue(user)
    typer.echo(token)
