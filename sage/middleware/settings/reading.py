"""Reads the configuration: a YAML file, then ``SAGE_…`` from the environment, then flags, into :class:`Settings`."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sage.errors import ConfigError
from sage.middleware.settings.foreign import foreign_error, is_foreign
from sage.middleware.settings.kinds import VARIABLES
from sage.middleware.settings.quantities import nearest
from sage.middleware.settings.settings import Settings

# ${NAME} or ${NAME:-default}. Marks replace these before YAML parses the text, since a brace ends a plain scalar inside
# {…}. Their values are put into the parsed strings, so that no value can add structure.
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MARK = re.compile("\ue000(\\d+)\ue001")
# Variables with our prefix that are not settings.
_NOT_SETTINGS = frozenset({"SAGE_CONFIG", "SAGE_URL", "SAGE_API_KEY"})
_ENVIRONMENT = "environment variable "
Origins = dict[tuple[str, ...], str]
"""The path of a setting → the variable or option that it comes from."""
_OPTIONS = {"api.host": "--host", "api.port": "--port", "api.workers": "--workers", "auth.enabled": "--no-auth"}
"""The options of ``sage serve`` that set them."""
CLIENT_SECTIONS = frozenset({"data_dir", "database", "api", "auth"})
"""What a client of a gateway on this machine needs to know."""


def find_config(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: ``--config``, else ``SAGE_CONFIG``, else ``./config.yaml`` if it exists, else ``None``."""
    named = explicit or (Path(environ["SAGE_CONFIG"]) if environ.get("SAGE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such configuration file")
        return named
    default = Path("config.yaml")
    return default if default.is_file() else None


@dataclass(frozen=True)
class LoadedSettings:
    """Settings, with where they come from."""

    settings: Settings
    file: Path | None
    """``None`` means that no file was read."""
    written: Mapping[str, Any] = field(repr=False)
    """What the file says, with the values of its variables."""
    variables: Mapping[tuple[str, ...], tuple[str, ...]]
    """The variables that the file names at a path."""
    origins: Origins
    environ: Mapping[str, str] = field(repr=False)
    overrides: Mapping[str, Any]

    def again(self) -> LoadedSettings:
        """The settings as the file gives them now; raises as :func:`load_settings`."""
        return read_settings(self.file or find_config(None, self.environ), self.environ, self.overrides)

    def variable_of(self, path: tuple[str, ...]) -> str | None:
        """The environment variable that sets the value at ``path``, in place of the file."""
        label = self.origins.get(path, "")
        return label.removeprefix(_ENVIRONMENT) if label.startswith(_ENVIRONMENT) else None


def load_settings(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    sections: Collection[str] | None = None,
) -> Settings:
    """Settings from the file at ``path`` (``None`` means no file), ``environ`` and ``overrides`` (``{"api.port": 9}``).

    ``sections`` are the only ones that are looked at, so that faults elsewhere, such as a provider's key that is not in
    the environment, do not matter, nor does another program's file; ``None`` means all.

    Raises :class:`ConfigError` with one line for each fault: where it is, what is wrong and what is known there.
    """
    return read_settings(path, environ, overrides, sections=sections).settings


def read_settings(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    sections: Collection[str] | None = None,
) -> LoadedSettings:
    """As :func:`load_settings`, with where each value comes from."""
    environ = environ or {}
    variables: dict[tuple[str, ...], tuple[str, ...]] = {}
    data = _read_file(path, environ, sections, variables) if path is not None else {}
    written = copy.deepcopy(data)
    origins = _apply_environment(data, environ)
    for dotted, value in (overrides or {}).items():
        keys = dotted.split(".")
        option = _OPTIONS.get(dotted, dotted)
        _put(data, keys, value, option)
        origins[tuple(keys)] = option
    if sections is not None:
        data = {section: value for section, value in data.items() if section in sections}
    try:
        settings = Settings.model_validate(data)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, origins, str(path) if path else None)) from exc
    return LoadedSettings(settings, path, written, variables, origins, environ, overrides or {})


def _read_file(
    path: Path,
    environ: Mapping[str, str],
    sections: Collection[str] | None,
    used: dict[tuple[str, ...], tuple[str, ...]],
) -> dict[str, Any]:
    """What the file says. Notes in ``used`` which variables it names where."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    variables: list[re.Match[str]] = []

    def mark(match: re.Match[str]) -> str:
        variables.append(match)
        return f"\ue000{len(variables) - 1}\ue001"

    try:
        data = _yaml().read_yaml(_VARIABLE.sub(mark, text))
    except ConfigError as fault:
        raise ConfigError(f"{path}: {fault}") from None
    except ValueError:
        raise ConfigError(f"{path}: holds a date or number that does not exist; put it in quotes") from None
    data = _own_sections(path, {} if data is None else data, sections)
    filled = _fill(data, variables, environ, (str(path),), used)
    assert isinstance(filled, dict)
    return filled


def _own_sections(path: Path, data: Any, sections: Collection[str] | None) -> dict[str, Any]:
    """The part of a file that is looked at. Raises :class:`ConfigError` for a file that is not ours, if all is."""
    if sections is None and not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of sections such as 'llm:' and 'api:'")
    keys = [str(key) for key in data] if isinstance(data, dict) else []
    has_variables = any(map(_MARK.search, keys))  # a key may be a variable
    foreign = not has_variables and is_foreign(keys, Settings.model_fields)
    if sections is None and foreign:
        raise foreign_error(path, keys)
    if foreign or not isinstance(data, dict):
        return {}
    if sections is None or has_variables:
        return data
    return {key: value for key, value in data.items() if key in sections}


def _yaml() -> Any:
    """What reads YAML. Many gateways have no file, and start a hundredth sooner without it."""
    from sage.middleware.settings import yaml_text

    return yaml_text


def _fill(
    value: Any,
    variables: list[re.Match[str]],
    environ: Mapping[str, str],
    where: tuple[str, ...],
    used: dict[tuple[str, ...], tuple[str, ...]],
) -> Any:
    if isinstance(value, dict):
        return {
            _fill(k, variables, environ, where, used): _fill(v, variables, environ, (*where, str(k)), used)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_fill(v, variables, environ, where, used) for v in value]
    if not isinstance(value, str):
        return value

    def read(match: re.Match[str]) -> str:
        if int(match[1]) >= len(variables):
            return match[0]
        name, default = variables[int(match[1])].groups()
        used[where[1:]] = (*used.get(where[1:], ()), name)
        if environ.get(name):
            return environ[name]
        if default is None:
            position = f"{where[0]}: {'.'.join(where[1:])}"
            raise ConfigError(
                f"{position}: the environment variable {name} is not set; write ${{{name}:-default}} to have a default"
            )
        return str(default)

    return _MARK.sub(read, value)


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str]) -> Origins:
    """Puts the settings of the environment into ``data``. An empty variable counts as not set."""
    sections = sorted(Settings.model_fields)
    origins: Origins = {}
    for name in sorted(environ):
        if not name.startswith("SAGE_") or name in _NOT_SETTINGS or not environ[name]:
            continue
        path = [part.lower() for part in name[len("SAGE_") :].split("__")]
        label = f"{_ENVIRONMENT}{name}"
        if path[0] not in sections:
            # SAGE_ROOT and its like belong to other programs; a nested or nearly right name is a slip.
            section = path[0].partition("_")[0]
            if section in sections:
                right = f"SAGE_{section}__{name[len('SAGE_') + len(section) + 1 :]}".upper()
                raise ConfigError(f"{label}: levels are parted by two underscores; did you mean {right}?")
            hint = nearest(path[0], sections)
            if len(path) > 1 or hint.startswith("did"):
                raise ConfigError(f"{label}: unknown key '{path[0]}'; {hint}")
            continue
        _put(data, path, _parse(environ[name], label), label)
        origins[tuple(path)] = label
    for name, (kind, key) in VARIABLES.items():
        if environ.get(name) and _fill_vendor(data, kind.name, key, kind.read_variable(environ[name])):
            origins["llm", "providers", kind.name, key] = f"{_ENVIRONMENT}{name}"
    return origins


def _fill_vendor(data: dict[str, Any], provider: str, key: str, value: str) -> bool:
    """Sets what the configuration leaves open to what a vendor's own variable gives; tells whether it did."""
    section: Any = data
    for part in ("llm", "providers", provider):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            return False
    # A provider of that name but another kind is another vendor's: the key is not for it.
    if section.get("kind", provider) != provider or section.get(key):
        return False
    section[key] = value
    return True


def _parse(value: str, label: str) -> Any:
    """A variable's value. Lists and mappings are written as YAML; all else is text: a key of digits is not a number."""
    if value[:1] in ("[", "{"):
        try:
            return _yaml().read_yaml(value)
        except ConfigError as fault:
            raise ConfigError(f"{label}: {fault}") from None
        except ValueError:
            raise ConfigError(f"{label}: holds a date or number that does not exist; put it in quotes") from None
    return value


def _put(data: dict[str, Any], path: list[str], value: Any, source: str) -> None:
    section = data
    for part in path[:-1]:
        inner = section.get(part)
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{source}: '{part}' is not a section")
        section = inner
    section[path[-1]] = value


def _explain(exc: ValidationError, origins: Origins, file: str | None) -> str:
    lines = []
    for error in exc.errors(include_url=False, include_input=False):
        loc = [str(part) for part in error["loc"]]
        if loc[:2] == ["llm", "providers"]:
            del loc[3:4]  # the kind, by which pydantic chose the section
        message = error["msg"].removeprefix("Value error, ")
        origin = _origin(tuple(loc), message, origins)
        # A fault of two sections together may be half the file's.
        source = f"{file} with {origin}" if file and origin and not loc else origin or file or "configuration"
        lines.append(f"{source}: {'.'.join(loc)}: {message}" if loc else f"{source}: {message}")
    return "\n".join(lines)


def _origin(loc: tuple[str, ...], message: str, origins: Origins) -> str | None:
    """The variable or option at fault: it set the value at ``loc``, or one that the beginning of ``message`` names.

    ``None`` means that the fault is in the file.
    """
    at_fault = message.partition("; ")[0]  # what follows is advice, which names other keys
    named = re.match(r"unknown key '(.+)'|([A-Za-z_][\w-]*(?:\.[\w-]+)+)(?=[: ])", at_fault)
    if named is not None:
        loc = (*loc, named[1]) if named[1] is not None else (*loc, *named[2].split("."))
    for path, origin in origins.items():
        if path == loc[: len(path)] or (named is not None and path[: len(loc)] == loc):
            return origin
        if path[: len(loc)] == loc and re.search(rf"\b{re.escape(path[len(loc)])}\b", at_fault):
            return origin
    return None
