"""The commands that submit jobs: ``sage tasks generate``, ``ingest`` and ``submit``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sage.errors import InvalidRequest, SageError
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.output import AsJson, Temperature, plain, print_json
from sage.middleware.cli.tasks.files import upload_file
from sage.middleware.cli.tasks.request_lines import RequestLines
from sage.middleware.cli.tasks.watch import watch_jobs
from sage.middleware.client.connection import connect, set_options
from sage.middleware.client.jobs import JobsClient
from sage.middleware.settings.quantities import parse_duration

NDJSON = "application/x-ndjson"


class Priority(StrEnum):
    """Which jobs come first; a request that somebody waits for comes before them all."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


Wait = Annotated[bool, typer.Option("--wait", help="Show how far the job is until it has ended, as 'watch' does.")]
PriorityOption = Annotated[
    Priority | None, typer.Option("--priority", help="Which jobs come first. Live requests come before them all.")
]
Webhook = Annotated[
    str | None, typer.Option(metavar="URL", help="Where the gateway tells that the job has ended, if it may call it.")
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The same job again under the same key is the first one, and not done twice."),
]
ExpiresAfter = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long the results are kept, such as 12h or 7d.")
]
TimeLimit = Annotated[str | None, typer.Option(metavar="TIME", help="How long the job may run, such as 30m.")]


def submit_commands(app: typer.Typer) -> None:
    """Adds the commands to ``sage tasks``."""
    app.command("generate")(submit_generate)
    app.command("ingest")(submit_ingest)
    app.command("submit")(submit_any)


def submit_generate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help='JSON lines: each a request such as {"prompt": "…"}, or a prompt in quotation marks. In a file '
            "whose name ends in .txt, each line is a prompt. '-' is standard input.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="The model of lines that name none.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system message before the prompt of each line.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many tokens an answer has at most.")
    ] = None,
    temperature: Temperature = None,
    priority: PriorityOption = None,
    webhook: Webhook = None,
    expires_after: ExpiresAfter = None,
    time_limit: TimeLimit = None,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Answer all prompts of a file in the background. 'sage tasks results JOB' gives the answers, in order."""
    defaults = set_options({"model": model, "max_tokens": max_tokens, "temperature": temperature})
    lines = RequestLines.read(file, defaults, system)
    common = _common(priority, webhook, expires_after, time_limit)
    query = {name: value if isinstance(value, str) else json.dumps(value) for name, value in common.items()}
    client = JobsClient(patience=0)
    view = client.submit_body(
        "generate", lines.parts, query=query, content_type=NDJSON, idempotency_key=idempotency_key
    )
    _tell(client, view, wait, as_json)


def submit_ingest(
    collection: Annotated[
        str,
        typer.Argument(
            metavar="COLLECTION", help="The collection. It is created if it does not exist.", show_default=False
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Files of this machine, which are uploaded.", show_default=False),
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            metavar="PATH",
            help="A file or directory of the gateway's machine, under a directory that its configuration allows. "
            "Give the option again for each further one.",
        ),
    ] = None,
    urls: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="A page or file that the gateway fetches, from a host that its configuration allows. Give the option "
            "again for each further one.",
        ),
    ] = None,
    priority: PriorityOption = None,
    webhook: Webhook = None,
    time_limit: TimeLimit = None,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Put files into a collection in the background: the gateway parses them."""
    if not (files or paths or urls):
        raise typer.BadParameter("name a FILE, --path or --url", param_hint="FILE")
    gateway = connect()
    ids = [upload_file(gateway, file) for file in files or ()]
    body = {"collection": collection, **_given(file_ids=ids, paths=paths, urls=urls)}
    body |= _common(priority, webhook, None, time_limit)
    client = JobsClient(patience=0)
    _tell(client, client.submit("ingest", body, idempotency_key=idempotency_key).refresh(), wait, as_json)


def submit_any(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="The kind of job: generate, embed, ingest, reembed, snapshot or evaluate.",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The body of POST /tasks/KIND, as JSON. '-' is standard input.",
            show_default=False,
        ),
    ],
    priority: PriorityOption = None,
    webhook: Webhook = None,
    expires_after: ExpiresAfter = None,
    time_limit: TimeLimit = None,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Submit a job of any kind, whose fields stand in a file."""
    body = _json_object(file) | _common(priority, webhook, expires_after, time_limit)
    client = JobsClient(patience=0)
    _tell(client, client.submit(kind, body, idempotency_key=idempotency_key).refresh(), wait, as_json)


def _common(
    priority: Priority | None, webhook: str | None, expires_after: str | None, time_limit: str | None
) -> dict[str, Any]:
    """The fields that all kinds of jobs have, as far as they are given."""
    return _given(
        priority=None if priority is None else priority.value,
        webhook=None if webhook is None else {"url": webhook},
        expires_after=_seconds(expires_after, "--expires-after"),
        time_limit=_seconds(time_limit, "--time-limit"),
    )


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _seconds(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        return float(parse_duration(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from None


def _json_object(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        body = json.loads(text)
    except OSError as exc:
        raise SageError(f"{file}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"{file} is not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise InvalidRequest(f'{file} is not a JSON object, such as {{"model": "…"}}')
    return body


def _tell(client: JobsClient, view: Mapping[str, Any], wait: bool, as_json: bool) -> None:
    """The id alone on standard output, for scripts; what to do with it beside."""
    job = plain(view["id"])
    if wait:
        if not as_json:
            typer.echo(job)
        watch_jobs(client, [view["id"]], as_json)
        return
    if as_json:
        print_json(view)
        return
    typer.echo(job)
    typer.echo(_("to see how far it is: {command}").format(command=f"sage tasks watch {job}"), err=True)
