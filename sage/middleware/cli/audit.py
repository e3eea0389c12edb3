"""``sage audit``: who changed what, and whether that account was tampered with. It works on the data directory, with or
without a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.middleware.cli.config import ConfigFile
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.language.templates import translated
from sage.middleware.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from sage.middleware.audit.log import AuditLog

audit_app = typer.Typer(no_args_is_help=True, help="Show and check who changed what.")


@audit_app.callback()
def _audit_group() -> None:
    """Show and check who changed what."""


@audit_app.command("list")
def audit_list(
    actor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this user did; 'operator' is this machine's.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Only this action, such as 'key.create', or all of 'key'.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Only what was done to it, such as 'user:ann'.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="The first day (2026-11-01), or a time.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="DATE", help="The last day, or a time; now.")] = None,
    before: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Only events older than the one with this number.", min=1)
    ] = None,
    limit: Annotated[int, typer.Option(metavar="COUNT", help="How many events at most.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List who changed what, the newest first."""
    from sage.middleware.audit.log import AuditFilter
    from sage.middleware.usage.periods import read_period

    offset = datetime.now().astimezone().strftime("%z")
    period = read_period(since or "0", until, offset)
    wanted = AuditFilter(None, actor, action, target, period.begin if since else None, period.end if until else None)
    with _audit(config) as log:
        events, following = log.page(wanted, before, limit)
    if as_json:
        print_json({"events": events, "before": following})
        return
    if not events:
        typer.echo(_("no events"))
        return
    print_table(("NO", "TIME", "ACTOR", "ACTION", "TARGET", "FROM"), map(_cells, events))
    if following is not None:
        typer.echo(_("older ones: --before {number}").format(number=following), err=True)


@audit_app.command("verify")
def audit_verify(
    anchors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Hashes that were kept elsewhere: the file of audit.anchors, or a log with such lines."
        ),
    ] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Check the chain of all events: nothing was changed, taken out, put in or cut off. Exit code 1 if it was."""
    from sage.middleware.audit.anchors import read_anchors
    from sage.middleware.audit.verification import verify

    kept = read_anchors(anchors) if anchors is not None else {}
    with _audit(config) as log:
        verdict = verify(log.open(), kept)
    if as_json:
        print_json({"ok": verdict.fault is None, **asdict(verdict)})
    elif verdict.fault is not None:
        typer.echo(_("BROKEN: {fault}").format(fault=translated(verdict.fault)), err=True)
    else:
        typer.echo(
            _("{count} events, unbroken; the last one's hash: {hash}").format(count=verdict.events, hash=verdict.hash)
        )
        if kept:
            typer.echo(_("{count} anchors match").format(count=verdict.anchors))
        else:
            typer.echo(
                _(
                    "note: who can write the database can write a whole new chain too; only hashes that are kept "
                    "elsewhere show that (--anchors)"
                ),
                err=True,
            )
    if verdict.fault is not None:
        raise typer.Exit(1)


@contextmanager
def _audit(config: Path | None) -> Iterator[AuditLog]:
    """The audit of the configured installation."""
    from sage.middleware.audit.log import AuditLog
    from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings

    settings = load_settings(find_config(config, os.environ), os.environ, sections=CLIENT_SECTIONS)
    log = AuditLog(settings.data_dir, settings.database)
    try:
        yield log
    finally:
        log.close()


def _cells(event: dict[str, Any]) -> tuple[object, ...]:
    moment = datetime.fromtimestamp(event["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return (event["seq"], moment, event["actor"], event["action"], event["target"], event["address"] or "-")
