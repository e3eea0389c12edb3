"""``sage worker``: runs jobs for a gateway, on any machine that reaches it and its broker."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sage.errors import ConfigError
from sage.middleware.cli.config import ConfigFile
from sage.middleware.cli.language.catalogue import _
from sage.middleware.queue.celery_app import DEFAULT_QUEUE
from sage.middleware.queue.messages import QUEUE_NAME
from sage.middleware.queue.worker_options import WorkerOptions, new_worker_name
from sage.middleware.settings.reading import CLIENT_SECTIONS, find_config, load_settings
from sage.middleware.settings.settings import Settings


def worker_command(
    config: ConfigFile = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=256, help="How many jobs it runs at a time. Without it, queue.concurrency counts."
        ),
    ] = None,
    queues: Annotated[
        str, typer.Option(metavar="NAMES", help="The queues from which it takes jobs, with commas between them.")
    ] = DEFAULT_QUEUE,
) -> None:
    """Run jobs for the gateway at SAGE_URL, until Ctrl-C.

    It takes them from the broker of the configuration (queue.broker), and needs a key with the scope 'worker' in
    SAGE_API_KEY. A gateway without a broker runs a worker of its own.
    """
    names = tuple(dict.fromkeys(name.strip() for name in queues.split(",")))
    if not all(QUEUE_NAME.fullmatch(name) for name in names):
        raise typer.BadParameter("names of queues have letters, digits, '-' and '_'", param_hint="--queues")
    settings = load_settings(find_config(config, os.environ), os.environ, sections=CLIENT_SECTIONS | {"queue"})
    credential = os.environ.pop("SAGE_API_KEY", "").strip()  # no process that a job starts is to see it
    if not credential and settings.auth.enabled:
        raise ConfigError(
            "a worker needs a key: put one with the scope 'worker' into SAGE_API_KEY "
            "(sage key add --user NAME --scope worker)"
        )
    from sage.middleware.worker.main import run_worker

    options = WorkerOptions(
        url=os.environ.get("SAGE_URL") or _url(settings),
        credential=credential or "none",
        name=new_worker_name(),
        queue=settings.queue,
        data_dir=settings.data_dir,
        concurrency=concurrency or settings.queue.concurrency,
        queues=names,
    )

    def say_hello() -> None:
        line = _("worker {name}: {concurrency} job(s) at a time of '{queues}' for {url}, by {broker}")
        names_of = ", ".join(options.queues)
        fields = {"concurrency": options.concurrency, "url": options.url, "broker": options.broker}
        typer.echo(line.format(name=options.name, queues=names_of, **fields))

    raise typer.Exit(run_worker(options, say_hello))


def _url(settings: Settings) -> str:
    host = settings.api.host if settings.api.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    return f"http://[{host}]:{settings.api.port}" if ":" in host else f"http://{host}:{settings.api.port}"
