"""The commands ``sage key``: they work on the data directory, with or without a server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.middleware.cli.accounts.budgets import budget_text, with_budgets
from sage.middleware.cli.accounts.opening import (
    Concurrent,
    Config,
    Note,
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

if TYPE_CHECKING:
    from sage.middleware.auth.api_keys.api_keys import MadeKey

key_app = typer.Typer(no_args_is_help=True, help="Manage the API keys of this installation.")

KeyId = Annotated[
    str, typer.Argument(metavar="ID", help="The key's id, as 'sage key list' shows it.", show_default=False)
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="TAG", help="By which usage is counted too. Give the option again for each further tag."
    ),
]


@key_app.command("add")
def key_add(
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="The user that the key belongs to.")],
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the key is for, shown in lists.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="What the key may do, such as 'generate' or 'search'. Give the option again for each further scope. "
            "Without it, the key may do all that its user may, except 'admin' and 'tenant:admin'.",
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
    tool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="The tools of MCP servers that the key may call, by name; '*' stands for any text, as in 'docs__*'. "
            "Give the option again for each further pattern. Without it, the key may call all tools.",
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
    note: Note = None,
    tag: Tags = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Create an API key. Its secret is printed to standard output, this once."""
    expires_at = None if expires is None else _expiry(expires)
    with open_accounts(config) as accounts:
        from sage.middleware.auth.grants import KeyRequest

        request = KeyRequest(name, scope or None, model or None, tenant, expires_at, note or "", tag or ())
        request = replace(request, limits=limits_of(rpm, tpm, concurrent), tools=tool or None)
        created = accounts.keys.create_for(user, request)
    key = created.key
    if key.expires_at:
        message = _("key {id} of '{user}' created: scopes {scopes}; models {models}; expires {date}")
    else:
        message = _("key {id} of '{user}' created: scopes {scopes}; models {models}; never expires")
    scopes, models = ", ".join(key.scopes), ", ".join(key.models)
    tell(message.format(id=key.id, user=key.user, scopes=scopes, models=models, date=date(key.expires_at)))
    _print_secret(created, as_json)


@key_app.command("list")
def key_list(
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="Show only the keys of this user.")] = None,
    team: Annotated[str | None, typer.Option("--team", metavar="TEAM", help="Show only the keys of this team.")] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """List the API keys, without their secrets."""
    from sage.middleware.auth.teams.tenants import DEFAULT_TENANT

    with open_accounts(config) as accounts:
        keys = with_budgets(config, "key", accounts.keys.list(user, tenant=team))
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
            limits_text(key["limits"]),
            budget_text(key["budget"]),
            date(key["last_used_at"])[:10],
            date(key["expires_at"]),
            _key_state(key),
        )
        for key in keys
    ]
    print_table(
        ("ID", "USER", "NAME", "ENDS", "SCOPES", "MODELS", "LIMITS", "BUDGET", "USED", "EXPIRES", "STATE"),
        rows,
        optional=("LIMITS", "BUDGET"),
    )


@key_app.command("show")
def key_show(key_id: KeyId, as_json: AsJson = False, config: Config = None) -> None:
    """Show an API key, without its secret."""
    with open_accounts(config) as accounts:
        (key,) = with_budgets(config, "key", [accounts.keys.get(key_id)])
    if as_json:
        print_json(key)
    else:
        print_details(key)


@key_app.command("set")
def key_set(
    key_id: KeyId,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What the key is for, shown in lists.")] = None,
    note: Note = None,
    tag: Tags = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all tags away.")] = False,
    tool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="The tools of MCP servers that the key may call from now on, and no others; '*' for all. Give the "
            "option again for each further pattern.",
        ),
    ] = None,
    rpm: Rpm = None,
    tpm: Tpm = None,
    concurrent: Concurrent = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Change an API key's name, note, tags, tools or limits. A running server knows it within a second."""
    from sage.middleware.auth.teams.views import shown

    changes: dict[str, Any] = {"name": name, "note": note, "tags": () if no_tags else tag, "tools": tool or None}
    changes = {field: value for field, value in changes.items() if value is not None}
    with open_accounts(config) as accounts:
        if (rpm, tpm, concurrent) != (None, None, None):
            changes["limits"] = limits_of(rpm, tpm, concurrent, accounts.keys.get(key_id).limits)
        key = accounts.keys.change(key_id, **changes)
    tell(_("key {id} of '{user}' is changed").format(id=key.id, user=key.user))
    if as_json:
        print_json(shown(key))


@key_app.command("rotate")
def key_rotate(
    key_id: KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long the old secret is still good; 0s ends it at once.")
    ] = "24h",
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Give an API key a new secret, printed to standard output, this once. The key keeps its id, rights and limits."""
    seconds = _seconds("--overlap", overlap)
    with open_accounts(config) as accounts:
        made = accounts.keys.rotate(key_id, overlap=seconds)
    if made.key.previous_expires_at:
        message = _("key {id} of '{user}' has a new secret; the old one is good until {date}")
    else:
        message = _("key {id} of '{user}' has a new secret; the old one has ended")
    tell(message.format(id=made.key.id, user=made.key.user, date=date(made.key.previous_expires_at)))
    _print_secret(made, as_json)


@key_app.command("revoke")
def key_revoke(key_id: KeyId, as_json: AsJson = False, config: Config = None) -> None:
    """Revoke an API key, and every key made with it. A running server refuses them within a second."""
    from sage.middleware.auth.teams.views import shown

    with open_accounts(config) as accounts:
        key = accounts.keys.revoke(key_id)
    tell(_("key {id} of '{user}' is revoked").format(id=key.id, user=key.user))
    if as_json:
        print_json(shown(key))


@key_app.command("rotate-signing")
def key_rotate_signing(
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Refuse the tokens of all earlier keys from now on, as after a theft.")
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Make a new key that signs access tokens. Running servers use it within seconds, and nobody is logged out."""
    with open_accounts(config) as accounts:
        kid = accounts.rotate_signing_key(at_once=at_once)
    tell(_("access tokens are now signed with the key {kid}").format(kid=kid))
    if at_once:
        tell(_("tokens of earlier keys are refused; clients get new ones with their refresh tokens"))
    if as_json:
        print_json({"kid": kid})


def _print_secret(made: MadeKey, as_json: bool) -> None:
    from sage.middleware.auth.teams.views import shown

    tell(_("keep the secret now: it is not shown again"))
    if as_json:
        print_json({**shown(made.key), "key": made.secret})
    else:
        typer.echo(made.secret)


def _scopes_text(scopes: Sequence[str]) -> str:
    from sage.middleware.auth.principal import NOT_BY_DEFAULT, ROLES

    if set(scopes) == ROLES["admin"]:
        return _("all")
    if set(scopes) == ROLES["admin"] - NOT_BY_DEFAULT:
        return _("all but those of admins")
    return _("all of a user") if set(scopes) == ROLES["user"] else ", ".join(scopes)


def _expiry(text: str) -> int:
    seconds = _seconds("--expires", text)
    if not 1 <= seconds <= 100 * 365 * 86400:
        raise failed(f"--expires: '{text}' is not between a second and a hundred years", status=2)
    return int(time.time() + seconds)


def _seconds(option: str, text: str) -> int:
    from sage.middleware.settings.quantities import parse_duration

    try:
        return int(parse_duration(text))
    except ValueError as exc:
        raise failed(f"{option}: {exc}", status=2) from exc


def _key_state(key: dict[str, Any]) -> str:
    if key["revoked_at"] is not None:
        return _("revoked")
    return _("expired") if key["expires_at"] is not None and key["expires_at"] <= time.time() else ""
