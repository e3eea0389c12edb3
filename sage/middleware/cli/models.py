"""``sage models …`` and ``sage generate``: clients of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from sage.middleware.cli.client import connect, set_options
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.model_files import add_model_file, pull_file, source_of
from sage.middleware.cli.output import AsJson, print_json, print_table
from sage.middleware.cli.progress import showing_steps, size_text, waiting_for
from sage.middleware.cli.recommend import recommend
from sage.middleware.providers.local.hub_choice import is_source

models_app = typer.Typer(help="The models of a running gateway.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A model's name, as 'sage models list' shows it, or provider/model.")]


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models that you may use, and their states."""
    answer = connect().get("/models")
    if as_json:
        print_json(answer)
        return
    head = ("NAME", "STATE", "PROVIDER", "MEMORY", "IN FLIGHT", "LAST USED")
    print_table(head, map(_row, answer.get("models", [])))


def _row(model: dict[str, Any]) -> tuple[object, ...]:
    loaded = model["state"] not in ("unloaded", "failed")
    memory = size_text(model["memory"]) if loaded and model.get("memory") else "-"
    used = _ago(model["last_used"])
    return model["name"], model["state"], model["provider"] or "-", memory, model["in_flight"], used


@models_app.command("show")
def show_model(name: Name, as_json: AsJson = False) -> None:
    """Show one model: its state, its deployments, its last error."""
    _print_model(connect().get(f"/models/{name}"), as_json)


def _print_model(model: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(model)
    else:
        typer.echo("\n".join(describe(model)))


@models_app.command("load")
def load_model(name: Name, as_json: AsJson = False) -> None:
    """Load a model into memory; returns once it is ready."""
    _switch(name, "load", as_json)


@models_app.command("unload")
def unload_model(name: Name, as_json: AsJson = False) -> None:
    """Unload a model; returns once its memory is free."""
    _switch(name, "unload", as_json)


def _switch(name: str, verb: str, as_json: bool) -> None:
    start = time.monotonic()
    with waiting_for(f"{verb}ing {name}"):
        model = connect().post(f"/models/{name}/{verb}")
    if as_json:
        print_json(model)
    else:
        typer.echo(f"{model['name']}: {model['state']} ({time.monotonic() - start:.1f} s)")


models_app.command("recommend")(recommend)

Context = Annotated[
    int | None,
    typer.Option(min=64, metavar="TOKENS", help="How many tokens each request and its answer may have; default: 4096."),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        metavar="TASK", help="What it is started for: generate, embed or rerank; default: what the file says."
    ),
]


@models_app.command("pull")
def pull_model(
    name: Annotated[
        str,
        typer.Argument(
            help="hf:ORG/REPO, hf:ORG/REPO:Q8_0 or hf:ORG/REPO:FILE.gguf at Hugging Face, ms:… at ModelScope; "
            "or a model of an Ollama server."
        ),
    ],
    public_name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The name that a hub's model gets here.")
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
    with showing_steps() as show:
        for step in connect().events(f"/models/{name}/pull", {}):
            show(step)
    typer.echo(f"{name}: pulled ({time.monotonic() - start:.1f} s)")


@models_app.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="The public name.")],
    deployment: Annotated[
        list[str] | None, typer.Option(help="provider/model, with a weight after a colon if there are several: a/m:3")
    ] = None,
    path: Annotated[
        Path | None, typer.Option(metavar="FILE.gguf", help="A GGUF file of this machine, which stays where it is.")
    ] = None,
    context: Context = None,
    task: TaskOption = None,
    fallback: Annotated[list[str] | None, typer.Option(help="A model that answers when this one cannot.")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Never unload it for being idle or to make room.")] = False,
    preload: Annotated[bool, typer.Option("--preload", help="Load it when the gateway starts.")] = False,
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
    typer.echo(f"{name}: removed")


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
    model: Annotated[str, typer.Argument(help="A model's name, or provider/model.")],
    prompt: Annotated[str, typer.Argument(help="The prompt; '-' reads it from stdin.")],
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens that the answer may have.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 always takes the likeliest token.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Ask a model; its text is printed as it arrives."""
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
        typer.echo("sage: the model answered with no text", err=True)


def describe(model: dict[str, Any]) -> list[str]:
    """The answer of ``GET /models/{name}`` as the lines of ``sage models show``."""
    lines = [f"{model['name']}: {model['state']}{_in_brackets(_facts(model))}"]
    for deployment in model["deployments"]:
        name = f"{deployment['provider']}/{deployment['model']}"
        lines.append(f"  {name}: {deployment['state']}{_in_brackets(_conditions(deployment))}")
    if model["fallbacks"]:
        lines.append(f"  falls back on: {', '.join(model['fallbacks'])}")
    if model.get("shadows"):
        lines.append("  a model of this name was also registered at run time; the configuration's is used")
    if model["error"]:
        lines.append(f"  error: {model['error']['message']}")
        lines += [f"    | {line}" for line in model["error"].get("log") or ()]
    return lines


def _facts(model: dict[str, Any]) -> list[str]:
    memory = [f"{size_text(model['memory'])} of memory"] if model.get("memory") else []
    source = [f"from {model['source']}"] if model.get("source", "config") != "config" else []
    flags = [flag for flag in ("pin", "preload") if model.get(flag)]
    return [*memory, *source, *flags, f"last used {_ago(model['last_used'])}"]


def _conditions(deployment: dict[str, Any]) -> list[str]:
    """How busy a deployment is, and why it gets no requests now."""
    conditions = []
    if deployment["in_flight"]:
        conditions.append(f"{deployment['in_flight']} running")
    if deployment.get("waiting"):
        conditions.append(f"{deployment['waiting']} waiting")
    breaker = deployment.get("breaker") or {}
    if breaker.get("state", "closed") != "closed":
        duration = f" for {breaker['opens_for']:.0f} s" if breaker.get("opens_for") else ""
        conditions.append(f"breaker {breaker['state']}{duration}: {breaker['last_failure']}")
    if deployment.get("cooling_for"):
        conditions.append(f"cooling down for {deployment['cooling_for']:.0f} s")
    return conditions


def _in_brackets(facts: list[str]) -> str:
    return f" ({', '.join(facts)})" if facts else ""


def _ago(moment: float | None) -> str:
    if moment is None:
        return "never"
    seconds = max(0, round(time.time() - moment))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
