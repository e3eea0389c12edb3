"""The commands ``sage user``: they work on the data directory, with or without a server."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from sage.middleware.cli.accounts.budgets import budget_text, with_budgets
from sage.middleware.cli.accounts.opening import (
    Concurrent,
    Config,
    Rpm,
    Tpm,
    date,
    failed,
    limits_of,
    limits_text,
    open_accounts,
    print_details,
    tell,
)
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, print_json, print_table

user_app = typer.Typer(no_args_is_help=True, help="Manage the users of this installation.")

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input, as one line.")
]
UserName = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]
_ROLE_HELP = (
    "'admin' may do everything; 'owner' manages the users and keys of its team; 'user' works with models and data; "
    "'viewer' only looks and searches."
)
_TENANT_HELP = "The team (tenant) that the user belongs to; teams do not see each other's data."


@user_app.command("add")
def user_add(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The new user's name, in any script.", show_default=False)
    ],
    role: Annotated[str, typer.Option(metavar="ROLE", help=_ROLE_HELP)] = "user",
    tenant: Annotated[str, typer.Option("--tenant", "--team", metavar="TENANT", help=_TENANT_HELP)] = "default",
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    password_stdin: PasswordStdin = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Create a user. You are asked for the password twice."""
    with open_accounts(config) as accounts:
        accounts.users.check_new(name, role, tenant)
        limits = limits_of(rpm, tpm, concurrent)
        user = accounts.users.add(name, _new_password(password_stdin), role, tenant, limits=limits)
    message = _("user '{name}' created: {role}, tenant {tenant}")
    tell(message.format(name=user.name, role=user.role, tenant=user.tenant))
    _print_if(as_json, user)


@user_app.command("list")
def user_list(as_json: AsJson = False, config: Config = None) -> None:
    """List the users."""
    with open_accounts(config) as accounts:
        users = with_budgets(config, "user", accounts.users.list())
    if as_json:
        print_json({"users": users})
        return
    rows = [
        (
            user["name"],
            user["role"],
            user["tenant"],
            _("disabled") if user["disabled"] else "",
            limits_text(user["limits"]),
            budget_text(user["budget"]),
            date(user["created_at"]),
            date(user["last_login_at"]),
        )
        for user in users
    ]
    print_table(
        ("NAME", "ROLE", "TENANT", "STATE", "LIMITS", "BUDGET", "CREATED", "LAST LOGIN"), rows, optional=("BUDGET",)
    )


@user_app.command("show")
def user_show(name: UserName, as_json: AsJson = False, config: Config = None) -> None:
    """Show a user."""
    with open_accounts(config) as accounts:
        (user,) = with_budgets(config, "user", [accounts.users.get(name)])
    if as_json:
        print_json(user)
    else:
        print_details(user)


@user_app.command("set")
def user_set(
    name: UserName,
    role: Annotated[str | None, typer.Option(metavar="ROLE", help=_ROLE_HELP)] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", "--team", metavar="TENANT", help=_TENANT_HELP)] = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    default_limits: Annotated[
        bool, typer.Option("--default-limits", help="Give the user the limits of its team's members or its role again.")
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Change a user's role, team or limits. A running server knows it within a second."""
    from sage.middleware.settings.limits import Limits

    changes: dict[str, Any] = {"role": role, "tenant": tenant}
    changes = {field: value for field, value in changes.items() if value is not None}
    with open_accounts(config) as accounts:
        if (rpm, tpm, concurrent) != (None, None, None):
            changes["limits"] = limits_of(rpm, tpm, concurrent, accounts.users.get(name).limits) or Limits()
        if default_limits:
            changes["limits"] = None
        user = accounts.users.change(name, **changes)
    tell(_("user '{name}': {role}, tenant {tenant}").format(name=user.name, role=user.role, tenant=user.tenant))
    _print_if(as_json, user)


@user_app.command("disable")
def user_disable(name: UserName, as_json: AsJson = False, config: Config = None) -> None:
    """Disable a user: its sessions end, and its keys are refused."""
    with open_accounts(config) as accounts:
        user = accounts.users.change(name, disabled=True)
    tell(_("user '{name}' is disabled").format(name=user.name))
    _print_if(as_json, user)


@user_app.command("enable")
def user_enable(name: UserName, as_json: AsJson = False, config: Config = None) -> None:
    """Enable a disabled user: its keys work again."""
    with open_accounts(config) as accounts:
        user = accounts.users.change(name, disabled=False)
    tell(_("user '{name}' is enabled").format(name=user.name))
    _print_if(as_json, user)


@user_app.command("passwd")
def user_passwd(
    name: UserName, password_stdin: PasswordStdin = False, as_json: AsJson = False, config: Config = None
) -> None:
    """Give a user a new password: its sessions end."""
    password = _new_password(password_stdin)
    with open_accounts(config) as accounts:
        user = accounts.users.change(name, password=password)
    tell(_("user '{name}' has a new password; its sessions have ended").format(name=user.name))
    _print_if(as_json, user)


def _print_if(as_json: bool, user: Any) -> None:
    from sage.middleware.auth.teams.views import shown

    if as_json:
        print_json(shown(user))


def _new_password(from_stdin: bool) -> str:
    if from_stdin:
        try:
            line = sys.stdin.buffer.readline(4096).decode("utf-8")
        except UnicodeDecodeError:
            raise failed("the password on stdin is not UTF-8 text") from None
        if not line.rstrip("\r\n"):
            raise failed("--password-stdin: there is no password on stdin")
        return line.removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise failed(
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
