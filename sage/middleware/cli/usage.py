"""``sage usage``: what calls have used and cost, of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, print_json, print_table
from sage.middleware.client.connection import connect

_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class UsageGroup(StrEnum):
    """What calls are summed by."""

    KEY = "key"
    USER = "user"
    TENANT = "tenant"
    MODEL = "model"
    PROVIDER = "provider"
    DAY = "day"
    TAG = "tag"


def usage(
    by: Annotated[UsageGroup, typer.Option(help="What calls are summed by.")] = UsageGroup.DAY,
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DATE", help="The first day (2026-11-01), or a time; without it the last 30 days."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="DATE", help="The last day, or a time; now.")] = None,
    zone: Annotated[
        str | None, typer.Option("--tz", metavar="ZONE", help="Whose days: Asia/Kolkata, +05:30; this machine's.")
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Only this user's calls.")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only calls with this key.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Only calls of this model.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what calls have used and what they cost: your own, and as an owner or admin those of others."""
    query: dict[str, str | int] = {"by": by.value, "tz": zone or _own_offset()}
    query |= {name: value for name, value in (("from", since), ("to", until)) if value is not None}
    query |= {name: value for name, value in (("user", user), ("key", key), ("model", model)) if value is not None}
    if as_csv:
        typer.echo(connect().text("/usage", format="csv", **query), nl=False)
        return
    answer = connect().get("/usage", **query)
    if as_json:
        print_json(answer)
        return
    rows = answer["rows"]
    if not rows:
        typer.echo(_("no calls in that time"))
        return
    print_table((by.value.upper(), "CALLS", "FAILED", "PROMPT", "CACHED", "ANSWER", "USD", ""), _shown(by.value, rows))
    unpriced = sum(row["unpriced"] for row in rows)
    if unpriced:
        typer.echo(
            _("note: nobody knows the price of {count} of these calls (see llm.prices)").format(count=unpriced),
            err=True,
        )


def _shown(by: str, rows: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The cells of each row; the bar is as long as its cost is to the greatest one, or its tokens where all is free."""
    costs = [row["cost"] or 0 for row in rows]
    sizes = costs if any(costs) else [row["prompt_tokens"] + row["completion_tokens"] for row in rows]
    greatest = max(sizes) or 1
    counts = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
    return [
        (row[by] or "-", *(f"{row[name]:,}" for name in counts), _usd(row), bar(size / greatest))
        for row, size in zip(rows, sizes, strict=True)
    ]


def _usd(row: dict[str, Any]) -> str:
    if row["cost"] is None:
        return "?"
    return f"{row['cost']:,.4f}" + ("" if row["priced"] else "+")


def bar(share: float) -> str:
    """A bar of up to twenty cells for a ``share`` from 0 to 1; what is more than nothing shows."""
    eighths = round(share * _BAR * 8)
    if share > 0 and not eighths:
        eighths = 1
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _own_offset() -> str:
    """This machine's offset from UTC, as ``+05:30``."""
    text = datetime.datetime.now().astimezone().strftime("%z")
    return f"{text[:3]}:{text[3:5]}"
