"""Models of files for ``sage models pull`` and ``add``.

A gateway pulls on its own machine, wherever the command runs. Without one, and without ``SAGE_URL``, the command pulls
by itself: ``sage serve`` finds the model when it starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sage.errors import CallFailed, Conflict, InvalidRequest
from sage.middleware.cli.language.catalogue import _
from sage.middleware.cli.progress import Show, showing_steps
from sage.middleware.client.connection import Client, NoGateway, connect, is_loopback, set_options
from sage.middleware.hub.sources import is_source
from sage.middleware.providers.local.catalog import ModelCatalog, add_file
from sage.middleware.providers.local.hub_choice import check_file_model
from sage.middleware.settings.reading import find_config, load_settings
from sage.middleware.settings.settings import Settings

_PAGES = {"huggingface.co": "hf", "hf.co": "hf", "www.modelscope.cn": "ms", "modelscope.cn": "ms"}
_FILE_PAGE = re.compile(r"(?:blob|resolve|file/view)/[^/]+/(?P<file>.+)")


def source_of(text: str) -> str:
    """The name of a model at a hub, made of the address of its page or of its file; any other text as it is."""
    text = re.sub(r"^(hf|ms)://", r"\1:", text)
    address = urlsplit(text)
    hub = _PAGES.get(address.hostname or "") if address.scheme in ("http", "https") else None
    if hub is None:
        return text
    path = unquote(address.path).strip("/")
    org, slash, rest = (path.removeprefix("models/") if hub == "ms" else path).partition("/")
    repo, _slash, rest = rest.partition("/")
    file = _FILE_PAGE.fullmatch(rest)
    return f"{hub}:{org}{slash}{repo}" + (f":{file['file']}" if file else "")


def pull_file(source: str, options: Mapping[str, Any]) -> tuple[str, bool]:
    """Pulls a model from a hub, and shows how far it is.

    Returns its public name, and whether a gateway has it now. ``options`` may have ``name``, ``context``, ``task``.
    """
    body = set_options(options)
    with showing_steps() as show:
        try:
            return _pull_there(connect(), source, body, show), True
        except NoGateway:
            if os.environ.get("SAGE_URL"):
                raise
        import asyncio  # here: no other command needs it

        settings = load_settings(find_config(None, os.environ), os.environ)
        return asyncio.run(_pull_here(settings, source, body, show)), False


def _pull_there(client: Client, source: str, body: Mapping[str, Any], show: Show) -> str:
    name = source
    for step in client.events(f"/models/{source}/pull", body):
        show(step)
        name = step.get("model") or name
    return str(name)


async def _pull_here(settings: Settings, source: str, body: Mapping[str, Any], show: Show) -> str:
    from sage.middleware.providers.local.file_models import FileModels

    name = ""

    def accept(default: str) -> str:
        chosen = str(body.get("name") or default)
        if not is_source(chosen):
            _check_free(settings, chosen)
        return chosen

    options = {key: value for key, value in body.items() if key != "name"}
    async with aclosing(FileModels(_directory(settings)).pull(source, accept, options)) as steps:
        async for step in steps:
            show({"status": step.status, "completed": step.completed, "total": step.total})
            name = step.model or name
    return name


def add_model_file(name: str, path: Path, options: Mapping[str, Any]) -> str:
    """Lists a GGUF file of this machine as a model, and returns what to tell."""
    url = os.environ.get("SAGE_URL", "")
    if url and not is_loopback(url):
        raise InvalidRequest(
            f"--path names a file of this machine, and the gateway at {url} may run on another one; run the command "
            "there, without SAGE_URL"
        )
    settings = load_settings(find_config(None, os.environ), os.environ)
    _check_free(settings, name)
    file = add_file(ModelCatalog(_directory(settings)), name, path, set_options(options)).path
    try:
        connect().get(f"/models/{name}")
    except NoGateway:
        return _("{name}: added ({file}); 'sage serve' will have it").format(name=name, file=file)
    except CallFailed as exc:
        if exc.answer_status == 404:
            return _("{name}: added ({file}), but the gateway that runs here uses another data directory").format(
                name=name, file=file
            )
    return _("{name}: added ({file})").format(name=name, file=file)


def _directory(settings: Settings) -> Path:
    return settings.data_dir / "models"


def _check_free(settings: Settings, name: str) -> None:
    """Raises for a name that the configuration or a provider has."""
    check_file_model(name)
    if name in settings.llm.models or any(
        name in getattr(section, "models", ()) for section in settings.llm.providers.values()
    ):
        raise Conflict(f"model '{name}' is in the configuration file, which wins; choose another name with --name")
