"""The report of an evaluation as tables: what each model and search got, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import print_table

TABLES = ("answers", "searches", "comparisons")
"""The fields of a report that are shown here."""
Row = dict[str, Any]


def is_report(result: Row | None) -> bool:
    """Whether the result of a job is a report."""
    return result is not None and all(isinstance(result.get(name), list) for name in TABLES)


def print_report(report: Row) -> None:
    """Prints a table for the models, one for the searches, and one for the differences, as far as there are any."""
    for systems in (report["answers"], report["searches"]):
        if systems:
            typer.echo()
            _print_systems(systems)
    if report["comparisons"]:
        typer.echo()
        rows = [_comparison(row) for row in report["comparisons"]]
        print_table(("SYSTEM", "AGAINST", "METRIC", "DIFFERENCE", "LOW", "HIGH", "QUESTIONS"), rows)
        typer.echo(_("LOW and HIGH: the 95 % interval; where 0 lies in it, no difference is shown"))


def _print_systems(systems: Sequence[Row]) -> None:
    metrics = sorted({metric for system in systems for metric in system["scores"]})
    rows = [
        (
            name_of(system),
            *(_number(system["scores"].get(metric, {}).get("mean")) for metric in metrics),
            system["failed"],
            *(_milliseconds(system["latency_ms"][share]) for share in ("p50", "p95")),
            system["usage"].get("total_tokens", "-"),
        )
        for system in systems
    ]
    heads = (_("SYSTEM"), *metrics, _("FAILED"), _("P50"), _("P95"), _("TOKENS"))
    print_table(heads, rows)


def name_of(system: Row) -> str:
    """``gemma-3-270m``, ``gemma-3-270m + docs``, or of a search ``docs``."""
    return " + ".join(str(system[part]) for part in ("model", "collection") if system.get(part) is not None)


def _comparison(row: Row) -> tuple[object, ...]:
    bounds = (_number(row[bound], signed=True) for bound in ("difference", "low", "high"))
    return name_of(row["system"]), name_of(row["baseline"]), row["metric"], *bounds, row["count"]


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
