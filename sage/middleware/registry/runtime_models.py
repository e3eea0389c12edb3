"""Models that are registered while the gateway runs: what a registration may contain, and the file that stores them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sage.errors import ConfigError, Conflict, InvalidRequest, SageError
from sage.middleware.database.shared_files import SharedFiles
from sage.middleware.engines.lora import adapter_server
from sage.middleware.providers.base import MAX_NAME, Provider
from sage.middleware.registry.factory import unconfigured
from sage.middleware.settings.first_fault import first_fault
from sage.middleware.settings.kinds import RESERVED_PREFIXES
from sage.middleware.settings.settings import DeploymentSettings, Model

_FILE = "models.json"
_VERSION = 1
_ACTIONS = ("load", "unload", "explain", "pull")
# Keys that could make the gateway call, run or read something that its owner did not choose.
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
    elif len(parts) > 1 and (parts[0] in providers or parts[0] in RESERVED_PREFIXES):
        fault = f"begins with '{parts[0]}/', which stands for that provider's own models"
    else:
        return
    raise InvalidRequest(f"the model's name '{name[:MAX_NAME]}' {fault}; choose another", param="name")


def parse_registration(body: Any, providers: Mapping[str, Provider], absent: Mapping[str, str]) -> Model:
    """The settings in ``body``: deployments of configured providers, and how to keep the model.

    Raises :class:`InvalidRequest` for everything else, above all for what only the configuration file may set.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be an object with 'deployments'")
    listed = body.get("deployments")
    deployments = listed if isinstance(listed, list) else ()
    sections = [("", body), *((f"deployments.{number}.", wanted) for number, wanted in enumerate(deployments))]
    for prefix, section in sections:
        for key in section if isinstance(section, dict) else ():
            if key in _CONFIGURED_ONLY:
                raise InvalidRequest(
                    f"'{prefix}{key}' is set in the configuration file only: no address, path, command or argument "
                    "comes from a request",
                    param=f"{prefix}{key}",
                    code="configured_only",
                )
    try:
        model = Model.model_validate(body)
    except ValidationError as exc:
        _, place, message = first_fault(exc, Model.model_validate, body)
        param = ".".join(map(str, place))
        raise InvalidRequest(f"{param}: {message}" if param else message, param=param or None) from exc
    for number, wanted in enumerate(model.deployments):
        _check_deployment(wanted, model, f"deployments.{number}", providers, absent)
    return model


def _check_deployment(
    wanted: DeploymentSettings, model: Model, path: str, providers: Mapping[str, Provider], absent: Mapping[str, str]
) -> None:
    provider = providers.get(wanted.provider)
    if provider is None:
        reason = absent.get(wanted.provider) or unconfigured(wanted.provider)
        names = ", ".join(sorted(providers))
        raise InvalidRequest(
            f"the provider '{wanted.provider}' cannot serve: {reason}; configured: {names}",
            param=f"{path}.provider",
        )
    if not wanted.model.isprintable() or len(wanted.model) > MAX_NAME:
        raise InvalidRequest(f"'{path}.model' is not 1 to {MAX_NAME} printable characters", param=f"{path}.model")
    if wanted.lora is not None and not _ADAPTER.fullmatch(wanted.lora):
        raise InvalidRequest(
            f"'{path}.lora' is not the name of a directory in the provider's lora_dir: letters, digits, '.', '_', '-'",
            param=f"{path}.lora",
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
        raise InvalidRequest(exc.message, param=f"{path}.{'lora' if wanted.lora else 'model'}") from exc


class RuntimeModels:
    """The models that were registered at run time: ``models.json`` among ``files``.

    Each change reads the file, and replaces it in one durable step under a lock: two gateways of one installation do
    not undo each other's changes.
    """

    def __init__(self, files: SharedFiles) -> None:
        self._files = files

    def read(self) -> dict[str, Model]:
        """The stored models by name; empty if there is no file. Raises :class:`ConfigError` for a broken one."""
        return self._parsed(self._files.read(_FILE))

    def version(self) -> int:
        """Another number after each change, by whichever gateway. Blocking."""
        return self._files.version(_FILE)

    def close(self) -> None:
        self._files.close()

    def _parsed(self, data: bytes | None) -> dict[str, Model]:
        if data is None:
            return {}
        try:
            stored = json.loads(data)
            if stored["version"] != _VERSION:
                raise ValueError(f"its version is {stored['version']}, and this gateway reads {_VERSION}")
            return {str(name): Model.model_validate(model) for name, model in stored["models"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigError(
                f"{self._files.place(_FILE)} with the models that were registered at run time cannot be read: "
                f"{_fault(exc)}; correct it, or move it away to start without them"
            ) from exc

    def put(self, name: str, model: Model) -> Model | None:
        """Stores ``model``; it is durable when this returns what stood there before. Blocking."""
        return self._change(name, model)

    def replace(self, name: str, expected: Model, model: Model) -> None:
        """Stores ``model`` in place of ``expected``; raises :class:`Conflict` where something else stands there by
        now. Blocking."""
        self._change(name, model, expected)

    def drop(self, name: str) -> Model | None:
        """Removes the model, which it returns. Blocking."""
        return self._change(name, None)

    def _change(self, name: str, model: Model | None, expected: Model | None = None) -> Model | None:
        before: Model | None = None

        def changed(data: bytes | None) -> bytes:
            nonlocal before
            models = self._parsed(data)
            before = models.pop(name, None)
            if expected is not None and before != expected:
                raise changed_meanwhile(name)
            if model is not None:
                models[name] = model
            stored = {each: registration(settings) for each, settings in models.items()}
            text = json.dumps({"version": _VERSION, "models": stored}, indent=1, ensure_ascii=False)
            return text.encode() + b"\n"

        self._files.change(_FILE, changed)
        return before


def registration(model: Model) -> dict[str, Any]:
    """The body that registers such a model, without what is as it is by default."""
    return model.model_dump(mode="json", exclude_defaults=True)


def revision(model: Model) -> str:
    """The same for the same registration."""
    text = json.dumps(registration(model), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed_meanwhile(name: str) -> Conflict:
    return Conflict(
        f"model '{name}' has been changed by somebody else meanwhile; look at it again (GET /models/{name})",
        param="revision",
        code="model_changed",
    )


def _fault(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors(include_input=False)
        )
    return f"it has no {exc}" if isinstance(exc, KeyError) else str(exc)
