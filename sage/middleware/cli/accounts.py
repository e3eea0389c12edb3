"""The commands ``sage user``, ``sage key`` and ``sage token``: they work on the data directory, with or without a
server.

``sage.middleware.auth`` is imported when a command runs, so that ``sage --help`` and all other commands start fast.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.errors import SageError
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from sage.middleware.auth.accounts import Accounts

user_app = typer.Typer(no_args_is_help=True, help="Manage the users of this installation.")
key_app = typer.Typer(no_args_is_help=True, help="Manage the API keys of this installation.")

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The configuration file to read.", show_default=False)
]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input, as one line.")
]
UserName = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]


@user_app.command("add")
def user_add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The new user's name, in any script.", show_default=False)
    ],
    role: Annotated[
        str, typer.Option(metavar="ROLE", help="'admin' may do everything; 'user' may not manage users and models.")
    ] = "user",
    tenant: Annotated[
        str,
        typer.Option(
            metavar="TENANT", help="The tenant that the user belongs to; tenants do not see each other's data."
        ),
    ] = "default",
    password_stdin: PasswordStdin = False,
    config: Config = None,
) -> None:
    """Create a user. You are asked for the password twice."""
    with _accounts(config) as accounts:
        accounts.users.check_new(name, role, tenant)
        user = accounts.users.add(name, _new_password(password_stdin), role, tenant)
    message = _("user '{name}' created: {role}, tenant {tenant}")
    _tell(message.format(name=user.name, role=user.role, tenant=user.tenant))


@user_app.command("list")
def user_list(as_json: AsJson = False, config: Config = None) -> None:
    """List the users."""
    with _accounts(config) as accounts:
        users = [asdict(user) for user in accounts.users.list()]
    if as_json:
        print_json({"users": users})
        return
    rows = [
        (
            user["name"],
            user["role"],
            user["tenant"],
            _("disabled") if user["disabled"] else "",
            _date(user["created_at"]),
        )
        for user in users
    ]
    print_table(("NAME", "ROLE", "TENANT", "STATE", "CREATED"), rows)


@user_app.command("disable")
def user_disable(name: UserName, config: Config = None) -> None:
    """Disable a user: its sessions end, and its keys are refused."""
    with _accounts(config) as accounts:
        user = accounts.users.change(name, disabled=True)
    _tell(_("user '{name}' is disabled").format(name=user.name))


@user_app.command("enable")
def user_enable(name: UserName, config: Config = None) -> None:
    """Enable a disabled user: its keys work again."""
    with _accounts(config) as accounts:
        user = accounts.users.change(name, disabled=False)
    _tell(_("user '{name}' is enabled").format(name=user.name))


@user_app.command("passwd")
def user_passwd(name: UserName, password_stdin: PasswordStdin = False, config: Config = None) -> None:
    """Give a user a new password: its sessions end."""
    password = _new_password(password_stdin)
    with _accounts(config) as accounts:
        user = accounts.users.change(name, password=password)
    _tell(_("user '{name}' has a new password; its sessions have ended").format(name=user.name))


@key_app.command("add")
def key_add(
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="The user that the key belongs to.")],
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the key is for, shown in lists.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="What the key may do, such as 'generate' or 'search'. Give the option again for each further scope. "
            "Without it, the key may do all that its user may, except 'admin'.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="The models that the key may use, by name; '*' stands for any text, as in 'gpt-*'. "
            "Give the option again for each further pattern. Without it, the key may use all models.",
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="TENANT", help="The tenant whose data the key sees, if not its user's; for admins only."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="How long the key is valid, such as 30d or 12h. Without it, it never expires."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Create an API key. Its secret is printed to standard output, this once."""
    expires_at = None if expires is None else _expiry(expires)
    with _accounts(config) as accounts:
        from sage.middleware.auth.grants import KeyRequest

        created = accounts.keys.create_for(user, KeyRequest(name, scope or None, model or None, tenant, expires_at))
    key = created.key
    if key.expires_at:
        message = _("key {id} of '{user}' created: scopes {scopes}; models {models}; expires {date}")
    else:
        message = _("key {id} of '{user}' created: scopes {scopes}; models {models}; never expires")
    scopes, models = ", ".join(key.scopes), ", ".join(key.models)
    _tell(message.format(id=key.id, user=key.user, scopes=scopes, models=models, date=_date(key.expires_at)))
    _tell(_("keep the secret now: it is not shown again"))
    typer.echo(created.secret)


@key_app.command("list")
def key_list(
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Show only the keys of this user.")] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """List the API keys, without their secrets."""
    from sage.middleware.auth.teams.tenants import DEFAULT_TENANT

    with _accounts(config) as accounts:
        keys = [asdict(key) for key in accounts.keys.list(user)]
    if as_json:
        print_json({"keys": keys})
        return
    rows = [
        (
            key["id"],
            key["user"] if key["tenant"] == DEFAULT_TENANT else f"{key['user']} ({key['tenant']})",
            key["name"],
            f"…{key['last4']}",
            _scopes_text(key["scopes"]),
            ", ".join(key["models"]),
            _date(key["expires_at"]),
            _key_state(key),
        )
        for key in keys
    ]
    print_table(("ID", "USER", "NAME", "ENDS", "SCOPES", "MODELS", "EXPIRES", "STATE"), rows)


def _scopes_text(scopes: Sequence[str]) -> str:
    from sage.middleware.auth.principal import ROLES

    if set(scopes) == ROLES["admin"]:
        return _("all")
    if set(scopes) == ROLES["admin"] - {"admin", "worker"}:
        return _("all but admin and worker")
    return _("all of a user") if set(scopes) == ROLES["user"] else ", ".join(scopes)


@key_app.command("revoke")
def key_revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="The key's id, as 'sage key list' shows it.", show_default=False)
    ],
    config: Config = None,
) -> None:
    """Revoke an API key, and every key made with it. A running server refuses them within a second."""
    with _accounts(config) as accounts:
        key = accounts.keys.revoke(key_id)
    _tell(_("key {id} of '{user}' is revoked").format(id=key.id, user=key.user))


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
    with _accounts(config) as accounts:
        token = accounts.sessions.issue(user)
    typer.echo(token)


@contextmanager
def _accounts(config: Path | None) -> Iterator[Accounts]:
    """The accounts of the configured data directory; a :class:`SageError` ends the command with one line on stderr."""
    from sage.middleware.auth.accounts import Accounts
    from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings

    try:
        settings = load_settings(find_config(config, os.environ), os.environ, sections=CLIENT_SECTIONS)
        accounts = Accounts(settings.data_dir, settings.auth, url=settings.database)
        try:
            yield accounts
        finally:
            accounts.close()
    except SageError as exc:
        raise _failed(exc.message) from exc


def _new_password(from_stdin: bool) -> str:
    if from_stdin:
        try:
            line = sys.stdin.buffer.readline(4096).decode("utf-8")
        except UnicodeDecodeError:
            raise _failed("the password on stdin is not UTF-8 text") from None
        if not line.rstrip("\r\n"):
            raise _failed("--password-stdin: there is no password on stdin")
        return line.removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise _failed(
            "stdin is not a terminal, so no password can be asked for; pipe one line in with --password-stdin", status=2
        )
    return str(
        typer.prompt(
            _("Password (15 to 128 characters)"),
            hide_input=True,
            confirmation_prompt=_("Repeat for confirmation"),
            err=True,
        )
    )


def _expiry(text: str) -> int:
    from sage.middleware.settings.quantities import parse_duration

    try:
        seconds = float(parse_duration(text))
    except ValueError as exc:
        raise _failed(f"--expires: {exc}", status=2) from exc
    if not 1 <= seconds <= 100 * 365 * 86400:
        raise _failed(f"--expires: '{text}' is not between a second and a hundred years", status=2)
    return int(time.time() + seconds)


def _failed(message: str, status: int = 1) -> typer.Exit:
    _tell(f"sage: {' '.join(translated(message).splitlines())}")
    return typer.Exit(status)


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _date(seconds: int | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _key_state(key: dict[str, Any]) -> str:
    if key["revoked_at"] is not None:
        return _("revoked")
    return _("expired") if key["expires_at"] is not None and key["expires_at"] <= time.time() else ""
