"""What stands above all commands of ``sage``.

Exit codes: 0 done; 1 failed, with one clear line on stderr; 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sage.errors import SageError
from sage.middleware.app.version import version
from sage.middleware.cli.language.framework import CommandGroup
from sage.middleware.cli.language.templates import translated


def make_app() -> typer.Typer:
    """``sage`` without a command."""
    app = typer.Typer(
        name="sage",
        cls=CommandGroup,
        help="A team's LLM gateway and model manager. Start with 'sage serve'.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(root)
    return app


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(version())
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version of this program and exit."
        ),
    ] = False,
) -> None:
    """The options that stand before any command."""


def run(app: typer.Typer) -> None:
    """Runs the command that the arguments name; a :class:`SageError` is one line on stderr and exit code 1."""
    try:
        app(prog_name="sage")
    except SageError as exc:
        sys.stderr.write(f"sage: {translated(exc.message)}\n")
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
