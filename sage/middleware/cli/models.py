"""``sage models …`` and ``sage generate``: clients of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from sage.errors import SageError
from sage.middleware.cli.client import Client
from sage.middleware.cli.progress import showing_steps, size_text, waiting_for
from sage.middleware.settings.reading import find_config, load_settings
from sage.middleware.settings.settings import LOOPBACK, Settings

models_app = typer.Typer(help="The models of a running gateway.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A model's name, as 'sage models list' shows it, or provider/model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def client() -> Client:
    """``SAGE_URL`` and ``SAGE_API_KEY``; without them the gateway of the configuration, here, as its only user."""
    settings = load_settings(find_config(None, os.environ), os.environ)
    host = settings.api.host if settings.api.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
    here = f"http://[{host}]:{settings.api.port}" if ":" in host else f"http://{host}:{settings.api.port}"
    url = os.environ.get("SAGE_URL") or here
    credential, hint = os.environ.get("SAGE_API_KEY", "").strip() or None, ""
    if credential is None and settings.auth.enabled and _is_here(url):
        credential, hint = _own_token(settings)
    return Client(url, credential, hint)


def _is_here(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK
    except ValueError:
        return False


def _own_token(settings: Settings) -> tuple[str | None, str]:
    """A token of this installation's only user, or none and what to do if the gateway asks for one."""
    if not (settings.data_dir / "sage.db").exists():
        return None, "this installation has no users: sage user add NAME --role admin"
    from sage.middleware.auth.accounts import Accounts

    accounts = Accounts(settings.data_dir, settings.auth)
    try:
        return accounts.sessions.issue(None), ""
    except SageError as exc:
        return None, f"{exc.message}, as in SAGE_API_KEY=$(sage token --user NAME)"
    finally:
        accounts.close()


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """The models that you may use, and their states."""
    answer = client().get("/models")
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    rows: list[tuple[str, ...]] = [("NAME", "STATE", "PROVIDER", "MEMORY", "IN FLIGHT", "LAST USED")]
    rows += [_row(model) for model in answer.get("models", [])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    loaded = model["state"] not in ("unloaded", "failed")
    memory = size_text(model["memory"]) if loaded and model.get("memory") else "-"
    return (
        model["name"],
        model["state"],
        model["provider"] or "-",
        memory,
        str(model["in_flight"]),
        _ago(model["last_used"]),
    )


@models_app.command("show")
def show_model(name: Name, as_json: AsJson = False) -> None:
    """One model: its state, its deployments, its last error."""
    model = client().get(f"/models/{name}")
    if as_json:
        typer.echo(json.dumps(model, indent=2))
        return
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
    begun = time.monotonic()
    with waiting_for(f"{verb}ing {name}"):
        model = client().post(f"/models/{name}/{verb}")
    if as_json:
        typer.echo(json.dumps(model, indent=2))
    else:
        typer.echo(f"{model['name']}: {model['state']} ({time.monotonic() - begun:.1f} s)")


@models_app.command("pull")
def pull_model(name: Name) -> None:
    """Fetch a model to the server that runs it (Ollama, if its allow_pull has the name)."""
    begun = time.monotonic()
    with showing_steps() as show:
        for step in client().events(f"/models/{name}/pull", {}):
            show(step)
    typer.echo(f"{name}: pulled ({time.monotonic() - begun:.1f} s)")


@models_app.command("add")
def add_model(
    name: Annotated[str, typer.Argument(help="The public name.")],
    deployment: Annotated[
        list[str], typer.Option(help="provider/model, with its weight behind a colon if there are several: a/m:3")
    ],
    fallback: Annotated[list[str] | None, typer.Option(help="A model that answers when this one cannot.")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Never unloaded by idleness or for another model.")] = False,
    preload: Annotated[bool, typer.Option("--preload", help="Loaded when the gateway starts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a model over providers that are configured, or replace one that was registered so."""
    body: dict[str, Any] = {"deployments": [_deployment(text) for text in deployment]}
    given = {"fallbacks": fallback, "pin": pin, "preload": preload}
    model = client().post(f"/models/{name}", {**body, **{key: value for key, value in given.items() if value}})
    typer.echo(json.dumps(model, indent=2) if as_json else "\n".join(describe(model)))


@models_app.command("remove")
def remove_model(name: Name) -> None:
    """Remove a model that was registered while the gateway ran."""
    client().delete(f"/models/{name}")
    typer.echo(f"{name}: removed")


def _deployment(text: str) -> dict[str, Any]:
    """``provider/model`` or ``provider/model:weight``. A model's own tag (``llama3:8b``) is no weight."""
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
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The most tokens to answer with.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is always the likeliest answer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Ask a model; the text is printed as it comes."""
    body: dict[str, Any] = {"model": model, "prompt": sys.stdin.read() if prompt == "-" else prompt}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    if as_json:
        typer.echo(json.dumps(client().post("/generate", body), indent=2, ensure_ascii=False))
        return
    said = False
    for event in client().events("/generate", {**body, "stream": True}):
        typer.echo(event["text"], nl=False)
        sys.stdout.flush()
        said = said or bool(event["text"])
    typer.echo()
    if not said:
        typer.echo("sage: the model answered with no text", err=True)


def describe(model: dict[str, Any]) -> list[str]:
    """What ``sage models show`` says of the answer of ``GET /models/{name}``."""
    lines = [f"{model['name']}: {model['state']}{_in_brackets(_facts(model))}"]
    for deployment in model["deployments"]:
        name = f"{deployment['provider']}/{deployment['model']}"
        lines.append(f"  {name}: {deployment['state']}{_in_brackets(_conditions(deployment))}")
    if model["fallbacks"]:
        lines.append(f"  falls back on: {', '.join(model['fallbacks'])}")
    if model.get("shadows"):
        lines.append("  another one of this name was registered at run time; the configuration's wins")
    if model["error"]:
        lines.append(f"  error: {model['error']['message']}")
        lines += [f"    | {line}" for line in model["error"].get("log") or ()]
    return lines


def _facts(model: dict[str, Any]) -> list[str]:
    memory = [f"{size_text(model['memory'])} of memory"] if model.get("memory") else []
    source = [f"from {model['source']}"] if model.get("source", "config") != "config" else []
    wishes = [wish for wish in ("pin", "preload") if model.get(wish)]
    return [*memory, *source, *wishes, f"last used {_ago(model['last_used'])}"]


def _conditions(deployment: dict[str, Any]) -> list[str]:
    """How busy it is, and why it is left alone."""
    found = []
    if deployment["in_flight"]:
        found.append(f"{deployment['in_flight']} running")
    if deployment.get("waiting"):
        found.append(f"{deployment['waiting']} waiting")
    breaker = deployment.get("breaker") or {}
    if breaker.get("state", "closed") != "closed":
        left = f" for {breaker['opens_for']:.0f} s" if breaker.get("opens_for") else ""
        found.append(f"breaker {breaker['state']}{left}: {breaker['last_failure']}")
    if deployment.get("cooling_for"):
        found.append(f"cooling down for {deployment['cooling_for']:.0f} s")
    return found


def _in_brackets(facts: list[str]) -> str:
    return f" ({', '.join(facts)})" if facts else ""


def _ago(moment: float | None) -> str:
    if moment is None:
        return "never"
    seconds = max(0, round(time.time() - moment))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
