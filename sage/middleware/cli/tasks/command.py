"""``sage tasks …``: the jobs of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from sage.errors import DeadlineExceeded, SageError
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, plain, print_json, print_table
from sage.middleware.cli.tasks.describe import describe, row
from sage.middleware.cli.tasks.evaluation import is_report, print_report
from sage.middleware.cli.tasks.submit import submit_commands
from sage.middleware.cli.tasks.watch import watch_jobs
from sage.middleware.client.handle import ENDED
from sage.middleware.client.jobs import JobsClient

tasks_app = typer.Typer(
    help="Submit jobs to a running gateway, which does them in the background, and see how far they are.",
    no_args_is_help=True,
)
submit_commands(tasks_app)

_STOPS_WITHIN = 10.0
"""Seconds that 'cancel' waits for the worker of a job, which stops within about one."""
JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id, as 'sage tasks list' shows it.", show_default=False)
]
JobIds = Annotated[
    list[str],
    typer.Argument(metavar="JOB", help="The ids of jobs, as 'sage tasks list' shows them.", show_default=False),
]


def jobs_client() -> JobsClient:
    """The jobs of the gateway that the environment names. A refusal is shown at once."""
    return JobsClient(patience=0)


@tasks_app.command("list")
def list_tasks(
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only jobs of this kind, such as generate or ingest.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="Only jobs in this state: queued, running, cancelling, cancelled, succeeded, failed or dead.",
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Only jobs that this user has submitted.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many jobs are shown at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    views = list(islice(jobs_client().views(kind=kind, state=state, user=user), limit + 1))
    shown = views[:limit]
    if as_json:
        print_json({"tasks": shown, "next": shown[-1]["id"] if len(views) > limit else None})
        return
    print_table(("JOB", "KIND", "STATE", "DONE", "FAILED", "USER", "CREATED", "TIME"), map(row, shown))
    if len(views) > limit:
        typer.echo(_("there are more: --limit {limit}").format(limit=5 * limit), err=True)


@tasks_app.command("show")
def show_task(job: JobId, as_json: AsJson = False) -> None:
    """Show one job: its state, how far it is, its result or what went wrong."""
    _print(jobs_client().get(job), as_json)


@tasks_app.command("watch")
def watch_tasks(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="JOB", help="The ids of jobs. Without any: all that have not ended."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far jobs are until they have ended. Ctrl-C ends the display, not the jobs.

    The exit code is 1 when one of them has not succeeded.
    """
    client = jobs_client()
    ids = list(dict.fromkeys(jobs or ())) or _unfinished(client)
    if not ids:
        typer.echo(_("no job is queued or running"), err=True)
        return
    watch_jobs(client, ids, as_json)


def _unfinished(client: JobsClient) -> list[str]:
    states = ("queued", "running", "cancelling")
    return [view["id"] for state in states for view in client.views(state=state)]


@tasks_app.command("results")
def results_of_task(
    job: JobId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write, instead of standard output."),
    ] = None,
) -> None:
    """Write the results of a job: a line of JSON each, in the order of the input."""
    parts = jobs_client().download(job)
    if output is None or str(output) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    count = _write(parts, output)
    typer.echo(_("{job}: {count} results in {file}").format(job=plain(job), count=count, file=output), err=True)


def _write(parts: Iterator[bytes], file: Path) -> int:
    """Writes a temporary file beside ``file`` and renames it, so that a part of the results never has its name.
    Returns how many lines there are."""
    temporary, count = file.with_name(f".{file.name}.{os.getpid()}"), 0
    try:
        with temporary.open("wb") as out:
            for part in parts:
                out.write(part)
                count += part.count(b"\n")
        temporary.replace(file)
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    finally:
        temporary.unlink(missing_ok=True)
    return count


@tasks_app.command("cancel")
def cancel_tasks(jobs: JobIds, as_json: AsJson = False) -> None:
    """Cancel jobs. What runs is stopped; what is done already is kept."""
    client = jobs_client()
    for job in jobs:
        handle = client.job(client.cancel(job))
        with suppress(DeadlineExceeded):  # its worker does not answer now; it ends all the same
            handle.wait(_STOPS_WITHIN)
        view = client.get(job)
        if as_json:
            print_json(view)
        else:
            typer.echo(f"{plain(job)}: {_(view['state'])}")


@tasks_app.command("retry")
def retry_tasks(jobs: JobIds, as_json: AsJson = False) -> None:
    """Queue failed, dead or cancelled jobs again; of many lines, those that failed or were not done."""
    client = jobs_client()
    for job in jobs:
        view = client.retry(job)
        if as_json:
            print_json(view)
        else:
            typer.echo(f"{plain(job)}: {_(view['state'])}")


@tasks_app.command("delete")
def delete_tasks(jobs: JobIds) -> None:
    """Forget jobs that have ended, with their files. One that has not ended is cancelled."""
    client = jobs_client()
    for job in jobs:
        has_ended = client.get(job)["state"] in ENDED
        client.forget(job)
        message = _("{job}: deleted") if has_ended else _("{job}: cancelled")
        typer.echo(message.format(job=plain(job)))


def _print(view: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        typer.echo("\n".join(describe(view)))
        if is_report(view["result"]):
            print_report(view["result"])
