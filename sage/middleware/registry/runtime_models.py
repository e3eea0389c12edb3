"""Models that are registered while the gateway runs: what may be asked for, and the file that keeps them."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sage.errors import ConfigError, InvalidRequest, SageError
from sage.middleware.engines.lora import adapter_server
from sage.middleware.providers.base import MAX_NAME, Provider
from sage.middleware.registry.factory import unconfigured
from sage.middleware.settings.kinds import KINDS
from sage.middleware.settings.settings import DeploymentSettings, Model

_VERSION = 1
_ACTIONS = ("load", "unload", "explain", "pull")
# What could make the gateway call, run or read something that its owner did not name.
_CONFIGURED_ONLY = frozenset(
    {
        *("engine", "args", "arguments", "command", "environment", "env", "path", "package", "file", "kind"),
        *("url", "base_url", "socket", "headers", "api_key", "api_keys", "key", "lora_dir", "memory", "chat_template"),
    }
)
_ADAPTER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def check_name(name: str, providers: Mapping[str, object]) -> None:
    """Raises :class:`InvalidRequest` for a name that no model can be registered under at run time."""
    parts = name.split("/")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        fault = f"is not 1 to {MAX_NAME} printable characters"
    elif any(part in ("", ".", "..") for part in parts):
        fault = "has an empty part, '.' or '..' between its slashes"
    elif any(part in _ACTIONS for part in parts):
        fault = f"has a part that is an action of its own: {', '.join(_ACTIONS)}"
    elif len(parts) > 1 and (parts[0] in providers or parts[0] in KINDS):
        fault = f"begins with '{parts[0]}/', which stands for that provider's own models"
    else:
        return
    raise InvalidRequest(f"the model's name '{name[:MAX_NAME]}' {fault}; choose another", param="name")


def parse_registration(body: Any, providers: Mapping[str, Provider], absent: Mapping[str, str]) -> Model:
    """The settings that ``body`` asks for: deployments of configured providers, and how the model is kept.

    Raises :class:`InvalidRequest` for everything else, above all for what only the configuration file may say.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be an object with 'deployments'")
    given = body.get("deployments")
    deployments = given if isinstance(given, list) else ()
    places = [("", body), *((f"deployments.{number}.", wanted) for number, wanted in enumerate(deployments))]
    for place, section in places:
        for key in section if isinstance(section, dict) else ():
            if key in _CONFIGURED_ONLY:
                raise InvalidRequest(
                    f"'{place}{key}' is set in the configuration file only: no address, path, command or argument "
                    "comes from a request",
                    param=f"{place}{key}",
                    code="configured_only",
                )
    try:
        model = Model.model_validate(body)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{place}: {message}" if place else message, param=place or None) from exc
    for number, wanted in enumerate(model.deployments):
        _check_deployment(wanted, model, f"deployments.{number}", providers, absent)
    return model


def _check_deployment(
    wanted: DeploymentSettings, model: Model, place: str, providers: Mapping[str, Provider], absent: Mapping[str, str]
) -> None:
    provider = providers.get(wanted.provider)
    if provider is None:
        reason = absent.get(wanted.provider) or unconfigured(wanted.provider)
        known = ", ".join(sorted(providers))
        raise InvalidRequest(
            f"the provider '{wanted.provider}' cannot serve: {reason}; configured: {known}", param=f"{place}.provider"
        )
    if not wanted.model.isprintable() or len(wanted.model) > MAX_NAME:
        raise InvalidRequest(f"'{place}.model' is not 1 to {MAX_NAME} printable characters", param=f"{place}.model")
    if wanted.lora is not None and not _ADAPTER.fullmatch(wanted.lora):
        raise InvalidRequest(
            f"'{place}.lora' is not the name of a directory in the provider's lora_dir: letters, digits, '.', '_', '-'",
            param=f"{place}.lora",
        )
    limit = model.timeouts.wider(provider.timeouts)
    if limit is not None:
        most = getattr(provider.timeouts, limit)
        raise InvalidRequest(
            f"'timeouts.{limit}' is wider than the {most:g} s of the provider '{wanted.provider}'; a model can only "
            "narrow it",
            param=f"timeouts.{limit}",
        )
    try:
        provider.engine(wanted)
        if wanted.lora is not None:
            adapter_server(provider).adapter(wanted.lora)
    except SageError as exc:
        raise InvalidRequest(exc.message, param=f"{place}.{'lora' if wanted.lora else 'model'}") from exc


class RuntimeModels:
    """The file with the models that were registered at run time.

    It is written whole, in one step and to the disk, and read anew before each change: two gateways on one data
    directory do not undo each other's.
    """

    def __init__(self, path: Path, write: Callable[[Path, bytes], object]) -> None:
        """``write`` puts bytes at a path durably, in one step, for the owner's eyes only."""
        self._path = path
        self._write = write

    def read(self) -> dict[str, Model]:
        """What is kept, by name; nothing if there is no file. Raises :class:`ConfigError` for one that is no such."""
        try:
            kept = json.loads(self._path.read_bytes())
            if kept["version"] != _VERSION:
                raise ValueError(f"its version is {kept['version']}, and this gateway reads {_VERSION}")
            return {str(name): Model.model_validate(model) for name, model in kept["models"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigError(
                f"{self._path} with the models that were registered at run time cannot be read: {_fault(exc)}; mend "
                "it, or move it away to start without them"
            ) from exc

    def put(self, name: str, model: Model) -> None:
        """Keeps ``model``, on disk when this returns; blocking."""
        with self._changing() as models:
            models[name] = model

    def drop(self, name: str) -> None:
        """Forgets the model; blocking."""
        with self._changing() as models:
            models.pop(name, None)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Model]]:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(
                self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as exc:
            raise ConfigError(f"{self._path} cannot be written: {exc.strerror}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            models = self.read()
            yield models
            kept = {name: model.model_dump(mode="json", exclude_defaults=True) for name, model in models.items()}
            data = json.dumps({"version": _VERSION, "models": kept}, indent=1, ensure_ascii=False)
            self._write(self._path, data.encode() + b"\n")
        finally:
            os.close(lock)


def _fault(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors(include_input=False)
        )
    return f"it has no {exc}" if isinstance(exc, KeyError) else str(exc)
