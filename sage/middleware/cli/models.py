"""``sage models …`` and ``sage generate``: clients of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sage.errors import CallFailed
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.model_files import add_model_file, pull_file, source_of
from sage.middleware.cli.output import AsJson, Temperature, print_json, print_table
from sage.middleware.cli.progress import showing_steps, size_text, waiting_for
from sage.middleware.cli.recommend import recommend
from sage.middleware.client.connection import connect, set_options
from sage.middleware.hub.sources import is_repository, is_source

models_app = typer.Typer(help="See and manage the models of a running gateway.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's name, as 'sage models list' shows it, or provider/model.", show_default=False
    ),
]


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that you may use, and their states."""
    answer = connect().get("/models")
    if as_json:
        print_json(answer)
        return
    print_table(("NAME", "STATE", "PROVIDER", "MEMORY", "IN FLIGHT", "LAST USED"), map(_row, answer.get("models", [])))


def _row(model: dict[str, Any]) -> tuple[object, ...]:
    loaded = model["state"] not in ("unloaded", "failed")
    memory = size_text(model["memory"]) if loaded and model.get("memory") else "-"
    used = _ago(model["last_used"])
    return model["name"], model["state"], model["provider"] or "-", memory, model["in_flight"], used


@models_app.command("show")
def show_model(name: Name, as_json: AsJson = False) -> None:
    """Show one model: its state, what answers for it, and its last error."""
    _print_model(connect().get(f"/models/{name}"), as_json)


def _print_model(model: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(model)
    else:
        typer.echo("\n".join(describe(model)))


@models_app.command("load")
def load_model(name: Name, as_json: AsJson = False) -> None:
    """Load a model into memory, and wait until it is ready."""
    _switch(name, "load", _("loading {name}"), as_json)


@models_app.command("unload")
def unload_model(name: Name, as_json: AsJson = False) -> None:
    """Unload a model, and wait until its memory is free."""
    _switch(name, "unload", _("unloading {name}"), as_json)


def _switch(name: str, verb: str, title: str, as_json: bool) -> None:
    start = time.monotonic()
    with waiting_for(title.format(name=name)):
        model = connect().post(f"/models/{name}/{verb}")
    if as_json:
        print_json(model)
    else:
        typer.echo(f"{model['name']}: {model['state']} ({time.monotonic() - start:.1f} s)")


models_app.command("recommend")(recommend)

Context = Annotated[
    int | None,
    typer.Option(
        min=64, metavar="TOKENS", help="How many tokens a request and its answer may have together. Without it, 4096."
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="TASK", help="What the model is for: 'generate', 'embed' or 'rerank'. Without it, what the file says."
    ),
]


@models_app.command("pull")
def pull_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="What to download: hf:ORG/REPO, hf:ORG/REPO:Q8_0 or hf:ORG/REPO:FILE.gguf from Hugging Face, the same "
            "with ms: from ModelScope, or the name of a model of an Ollama server, whose allow_pull must allow it.",
            show_default=False,
        ),
    ],
    public_name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The name that a model from a hub gets here.")
    ] = None,
    context: Context = None,
    task: TaskOption = None,
) -> None:
    """Download a model: from a hub to this gateway, or to the Ollama server that runs it."""
    start = time.monotonic()
    source = source_of(name)
    options = {"name": public_name, "context": context, "task": task}
    if is_source(source):
        pulled, is_served = pull_file(source, options)
        duration = f"{time.monotonic() - start:.1f}"
        if is_served:
            typer.echo(_("{name}: pulled ({seconds} s)").format(name=pulled, seconds=duration))
        else:
            typer.echo(
                _("{name}: pulled ({seconds} s); 'sage serve' will have it").format(name=pulled, seconds=duration)
            )
        return
    if set_options(options):
        raise typer.BadParameter("--name, --context and --task are for models of a hub, such as hf:ORG/REPO")
    try:
        with showing_steps() as show:
            for step in connect().events(f"/models/{name}/pull", {}):
                show(step)
    except CallFailed as exc:
        if exc.answer_status != 404 or not is_repository(name):
            raise
        raise CallFailed(
            f"there is no model '{name}' here; to pull it from Hugging Face: sage models pull hf:{name}",
            answer_status=404,
        ) from None
    message = _("{name}: pulled ({seconds} s)")
    typer.echo(message.format(name=name, seconds=f"{time.monotonic() - start:.1f}"))


@models_app.command("add")
def add_model(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name under which users ask for the model.", show_default=False)
    ],
    deployment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROVIDER/MODEL[:WEIGHT]",
            help="What answers for the model, such as openai/gpt-4o-mini. Give the option again for each further one; "
            "of two with the weights 3 and 1, the first gets three of four requests.",
        ),
    ] = None,
    path: Annotated[
        Path | None, typer.Option(metavar="FILE.gguf", help="A GGUF file of this machine, which stays where it is.")
    ] = None,
    context: Context = None,
    task: TaskOption = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="A model that answers when this one cannot. Give the option again for each further one, "
            "in the order in which they are asked.",
        ),
    ] = None,
    pin: Annotated[
        bool,
        typer.Option(
            "--pin", help="Keep the model in memory: never unload it because it is idle, or to make room for another."
        ),
    ] = False,
    preload: Annotated[bool, typer.Option("--preload", help="Load the model when the gateway starts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a model: a GGUF file, or what configured providers serve."""
    if (path is None) == (not deployment):
        raise typer.BadParameter("give either --path or --deployment")
    if path is not None:
        if fallback or pin or preload:
            raise typer.BadParameter(
                "--fallback, --pin and --preload go with --deployment: add the file first, then a model of local/NAME"
            )
        typer.echo(add_model_file(name, path, {"context": context, "task": task}))
        return
    if context is not None or task is not None:
        raise typer.BadParameter("--context and --task go with --path")
    options = {"fallbacks": fallback or None, "pin": pin or None, "preload": preload or None}
    body = {"deployments": [_deployment(text) for text in deployment or ()], **set_options(options)}
    _print_model(connect().post(f"/models/{name}", body), as_json)


@models_app.command("remove")
def remove_model(name: Name) -> None:
    """Remove a model that was registered at run time, or pulled: what was downloaded for it is deleted."""
    connect().delete(f"/models/{name}")
    typer.echo(_("{name}: removed").format(name=name))


def _deployment(text: str) -> dict[str, Any]:
    """``provider/model`` or ``provider/model:weight``. A model's own tag (``llama3:8b``) is not a weight."""
    provider, slash, model = text.partition("/")
    if not provider or not slash or not model:
        raise typer.BadParameter(f"'{text}' is not provider/model, such as openai/gpt-4o-mini")
    head, colon, tail = model.rpartition(":")
    if colon and head and re.fullmatch(r"\d+(\.\d+)?", tail):
        return {"provider": provider, "model": head, "weight": float(tail)}
    return {"provider": provider, "model": model}


def generate(
    model: Name,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The prompt; '-' reads it from standard input.", show_default=False)
    ],
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End the answer after this many tokens.")
    ] = None,
    temperature: Temperature = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON, for programs.")] = False,
) -> None:
    """Ask a model one question. Its answer is printed as it arrives."""
    body: dict[str, Any] = {"model": model, "prompt": sys.stdin.read() if prompt == "-" else prompt}
    body |= set_options({"max_tokens": max_tokens, "temperature": temperature})
    if as_json:
        print_json(connect().post("/generate", body))
        return
    has_text = False
    for event in connect().events("/generate", {**body, "stream": True}):
        typer.echo(event["text"], nl=False)
        sys.stdout.flush()
        has_text = has_text or bool(event["text"])
    typer.echo()
    if not has_text:
        typer.echo(_("sage: the model answered with no text"), err=True)


def describe(model: dict[str, Any]) -> list[str]:
    """The answer of ``GET /models/{name}`` as the lines of ``sage models show``."""
    lines = [f"{model['name']}: {model['state']}{_in_brackets(_facts(model))}"]
    for deployment in model["deployments"]:
        name = f"{deployment['provider']}/{deployment['model']}"
        lines.append(f"  {name}: {deployment['state']}{_in_brackets(_conditions(deployment))}")
    if model["fallbacks"]:
        lines.append("  " + _("falls back on: {models}").format(models=", ".join(model["fallbacks"])))
    if model.get("shadows"):
        lines.append(
            "  " + _("a model of this name was also registered at run time; the one of the configuration is used")
        )
    if model["error"]:
        lines.append("  " + _("error: {message}").format(message=model["error"]["message"]))
        lines += [f"    | {line}" for line in model["error"].get("log") or ()]
    return lines


def _facts(model: dict[str, Any]) -> list[str]:
    facts = [_("{size} of memory").format(size=size_text(model["memory"]))] if model.get("memory") else []
    if model.get("source", "config") != "config":
        facts.append(_("from {source}").format(source=model["source"]))
    facts += [flag for flag in ("pin", "preload") if model.get(flag)]
    return [*facts, _("last used {ago}").format(ago=_ago(model["last_used"]))]


def _conditions(deployment: dict[str, Any]) -> list[str]:
    """How busy a deployment is, and why it gets no requests now."""
    conditions = []
    if deployment["in_flight"]:
        conditions.append(_("{count} running").format(count=deployment["in_flight"]))
    if deployment.get("waiting"):
        conditions.append(_("{count} waiting").format(count=deployment["waiting"]))
    breaker = deployment.get("breaker") or {}
    if breaker.get("state", "closed") != "closed":
        message = _("breaker {state}: {failure}")
        if breaker.get("opens_for"):
            message = _("breaker {state} for {seconds} s: {failure}")
        seconds, failure = f"{breaker.get('opens_for') or 0:.0f}", breaker["last_failure"]
        conditions.append(message.format(state=breaker["state"], seconds=seconds, failure=failure))
    if deployment.get("cooling_for"):
        message = _("cooling down for {seconds} s")
        conditions.append(message.format(seconds=f"{deployment['cooling_for']:.0f}"))
    return conditions


def _in_brackets(facts: list[str]) -> str:
    return _(" ({facts})").format(facts=_(", ").join(facts)) if facts else ""


def _ago(moment: float | None) -> str:
    if moment is None:
        return _("never")
    seconds = max(0, round(time.time() - moment))
    if seconds < 120:
        return _("{seconds} s ago").format(seconds=seconds)
    return _("{minutes} min ago").format(minutes=seconds // 60)
