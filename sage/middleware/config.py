"""Reads the configuration: a YAML file, then ``SAGE_…`` from the environment, then flags, into :class:`Settings`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sage.errors import ConfigError
from sage.middleware.settings import Settings, nearest

# ${NAME} or ${NAME:-default}. It is taken out before YAML parses the text, since a brace ends a plain scalar inside
# {…}, and put back into strings after, so that no value can add structure.
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MARK = re.compile("\ue000(\\d+)\ue001")
# Variables with our prefix that are not settings.
_NOT_SETTINGS = frozenset({"SAGE_CONFIG", "SAGE_URL", "SAGE_API_KEY"})
# What the vendors' own tools read: variable → path below llm.providers.
_VENDOR_VARIABLES = {
    "OPENAI_API_KEY": ("openai", "api_key"),
    "OPENAI_BASE_URL": ("openai", "base_url"),
    "OLLAMA_HOST": ("ollama", "base_url"),
    "ZHIPUAI_API_KEY": ("zhipu", "api_key"),
    "ZAI_API_KEY": ("zhipu", "api_key"),
    "CO_API_KEY": ("cohere", "api_key"),
    "COHERE_API_KEY": ("cohere", "api_key"),
    "VLLM_BASE_URL": ("vllm", "base_url"),
}


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a doubled key is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str) and key in seen:
            raise yaml.MarkedYAMLError(problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark)
        if isinstance(key, str):
            seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def find_config(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: ``--config``, else ``SAGE_CONFIG``, else ``./config.yaml`` if there is one, else none."""
    named = explicit or (Path(environ["SAGE_CONFIG"]) if environ.get("SAGE_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"{named}: no such configuration file")
        return named
    here = Path("config.yaml")
    return here if here.is_file() else None


def load_settings(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from the file at ``path`` (none: the defaults), ``environ`` and ``overrides`` (``{"api.port": 9}``).

    Raises :class:`ConfigError` with one line a fault: where it is, what is wrong and what is known there.
    """
    environ = environ or {}
    data = _read_file(path, environ) if path is not None else {}
    _apply_environment(data, environ)
    for dotted, value in (overrides or {}).items():
        _put(data, dotted.split("."), value, dotted)
    try:
        return Settings.model_validate(data)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, str(path) if path else "configuration")) from exc


def _read_file(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    variables: list[re.Match[str]] = []

    def mark(match: re.Match[str]) -> str:
        variables.append(match)
        return f"\ue000{len(variables) - 1}\ue001"

    try:
        data = yaml.load(_VARIABLE.sub(mark, text), _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: {_yaml_fault(exc)}") from exc
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of sections such as 'llm:' and 'api:'")
    filled = _fill(data, variables, environ, (str(path),))
    assert isinstance(filled, dict)
    return filled


def _yaml_fault(exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def _fill(value: Any, variables: list[re.Match[str]], environ: Mapping[str, str], where: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {
            _fill(k, variables, environ, where): _fill(v, variables, environ, (*where, str(k)))
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_fill(v, variables, environ, where) for v in value]
    if not isinstance(value, str):
        return value

    def read(match: re.Match[str]) -> str:
        name, default = variables[int(match[1])].groups()
        if environ.get(name):
            return environ[name]
        if default is None:
            place = f"{where[0]}: {'.'.join(where[1:])}"
            raise ConfigError(
                f"{place}: the environment variable {name} is not set; write ${{{name}:-default}} to do without"
            )
        return str(default)

    return _MARK.sub(read, value)


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    known = sorted(Settings.model_fields)
    for name in sorted(environ):
        if not name.startswith("SAGE_") or name in _NOT_SETTINGS:
            continue
        path = [part.lower() for part in name[len("SAGE_") :].split("__")]
        if path[0] not in known:
            # SAGE_ROOT and its like belong to other programs; what is nested or nearly ours is a slip.
            hint = nearest(path[0], known)
            if len(path) > 1 or hint.startswith("did"):
                raise ConfigError(f"environment variable {name}: unknown key '{path[0]}'; {hint}")
            continue
        _put(data, path, _parse(environ[name], name), name)
    for name, (provider, key) in _VENDOR_VARIABLES.items():
        if environ.get(name):
            _fill_vendor(data, provider, key, environ[name])


def _fill_vendor(data: dict[str, Any], provider: str, key: str, value: str) -> None:
    """A vendor's own variable gives what the configuration leaves open."""
    if key == "base_url" and "://" not in value:
        value = f"http://{value}" if re.search(r":\d+$", value) else f"http://{value}:11434"
    llm = data.setdefault("llm", None) or {}
    data["llm"] = llm
    if not isinstance(llm, dict):
        return
    providers = llm.get("providers") or {}
    llm["providers"] = providers
    if isinstance(providers, dict):
        section = providers.get(provider) or {}
        providers[provider] = section
        if isinstance(section, dict) and section.get(key) in (None, ""):
            section[key] = value


def _parse(value: str, name: str) -> Any:
    """Lists and mappings are written as YAML; all else stays text, so that a key of digits is not a number."""
    if value[:1] in ("[", "{"):
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise ConfigError(f"environment variable {name}: {_yaml_fault(exc)}") from exc
    return value


def _put(data: dict[str, Any], path: list[str], value: Any, source: str) -> None:
    here = data
    for part in path[:-1]:
        inner = here.get(part)
        if inner is None:
            inner = here[part] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{source}: '{part}' is not a section")
        here = inner
    here[path[-1]] = value


def _explain(exc: ValidationError, source: str) -> str:
    lines = []
    for error in exc.errors(include_url=False, include_input=False):
        loc = [str(part) for part in error["loc"]]
        if loc[:2] == ["llm", "providers"]:
            del loc[3:4]  # the kind, by which pydantic chose the section
        message = error["msg"].removeprefix("Value error, ")
        lines.append(f"{source}: {'.'.join(loc)}: {message}" if loc else f"{source}: {message}")
    return "\n".join(lines)
