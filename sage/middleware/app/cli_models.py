"""``sage models …`` and ``sage generate``: clients of a running gateway (``SAGE_URL``, ``SAGE_API_KEY``)."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from sage.errors import SageError
from sage.middleware.app.client import Client
from sage.middleware.config import find_config, load_settings
from sage.middleware.settings import LOOPBACK, Settings

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
    models = answer.get("models", [])
    rows = [("NAME", "STATE", "PROVIDER", "IN FLIGHT", "LAST USED")]
    rows += [(m["name"], m["state"], m["provider"] or "-", str(m["in_flight"]), _ago(m["last_used"])) for m in models]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@models_app.command("show")
def show_model(name: Name, as_json: AsJson = False) -> None:
    """One model: its state, its deployments, its last error."""
    model = client().get(f"/models/{name}")
    if as_json:
        typer.echo(json.dumps(model, indent=2))
        return
    typer.echo(f"{model['name']}: {model['state']}")
    for deployment in model["deployments"]:
        typer.echo(f"  {deployment['provider']}/{deployment['model']}: {deployment['state']}")
    if model["error"]:
        typer.echo(f"  error: {model['error']['message']}")


@models_app.command("load")
def load_model(name: Name, as_json: AsJson = False) -> None:
    """Load a local model; returns once it is ready."""
    _switch(name, "load", as_json)


@models_app.command("unload")
def unload_model(name: Name, as_json: AsJson = False) -> None:
    """Unload a local model; returns once its process and its memory are gone."""
    _switch(name, "unload", as_json)


def _switch(name: str, verb: str, as_json: bool) -> None:
    begun = time.monotonic()
    model = client().post(f"/models/{name}/{verb}")
    if as_json:
        typer.echo(json.dumps(model, indent=2))
    else:
        typer.echo(f"{model['name']}: {model['state']} ({time.monotonic() - begun:.1f} s)")


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


def _ago(moment: float | None) -> str:
    if moment is None:
        return "never"
    seconds = max(0, round(time.time() - moment))
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
