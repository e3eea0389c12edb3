"""The settings that apply, one by one: each with where its value comes from, and without its secrets."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, SecretStr
from pydantic_core import to_json, to_jsonable_python

from sage.middleware.settings.effective.masking import MASK, is_secret_name, masked
from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import parse_duration, parse_size
from sage.middleware.settings.reading import LoadedSettings
from sage.middleware.settings.settings import Model, Settings

SettingPath = tuple[str, ...]
SettingUnit = Literal["seconds", "bytes"]
SourceKind = Literal["default", "file", "environment", "command_line", "api", "program"]

_UNITS: Mapping[object, SettingUnit] = {parse_duration: "seconds", parse_size: "bytes"}


@dataclass(frozen=True, slots=True)
class SettingSource:
    """Where a value comes from. ``name`` is the variable or the option; ``variables`` are those that the file names for
    it."""

    kind: SourceKind
    name: str | None = None
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting. ``value`` and ``default`` are JSON without secrets; ``fingerprint`` tells values apart."""

    path: SettingPath
    value: Any
    default: Any
    unit: SettingUnit | None
    """What its numbers count."""
    is_secret: bool
    """Whether something of the value is hidden."""
    source: SettingSource
    fingerprint: bytes


def setting_rows(settings: Settings, loaded: LoadedSettings | None, key: bytes) -> dict[SettingPath, SettingRow]:
    """Every setting by its path. Without ``loaded``, what is not a default was set by the program. ``key`` makes the
    fingerprints, which are good for nothing without it."""
    defaults = {leaf.path: leaf.value for leaf in leaves(Settings.model_construct())}
    rows = {}
    for leaf in leaves(settings):
        source = _source(leaf.path, loaded) if loaded is not None else _set_by_program(leaf, defaults)
        rows[leaf.path] = _row(leaf, defaults, source, key)
    return rows


def model_rows(models: Mapping[str, Model], key: bytes) -> dict[SettingPath, SettingRow]:
    """The settings of models that were registered at run time."""
    rows = {}
    for name, model in models.items():
        at = ("llm", "models", name)
        for leaf in leaves(model, at):
            if leaf.value not in (None, (), {}):
                rows[leaf.path] = _row(leaf, {}, SettingSource("api"), key)
    return rows


class SettingLeaf(NamedTuple):
    """A single value, or a list of them, and where it stands."""

    path: SettingPath
    value: Any
    unit: SettingUnit | None


def leaves(value: Any, path: SettingPath = (), unit: SettingUnit | None = None) -> Iterator[SettingLeaf]:
    """What a section sets, down to single values and lists of them; an empty mapping is a value."""
    if isinstance(value, SettingsSection):
        for name, unit_of_field in _units_of(type(value)).items():
            yield from leaves(getattr(value, name), (*path, name), unit_of_field)
    elif isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from leaves(each, (*path, str(name)))
    elif isinstance(value, tuple) and any(isinstance(each, SettingsSection) for each in value):
        for index, each in enumerate(value):
            yield from leaves(each, (*path, str(index)))
    else:
        yield SettingLeaf(path, value, unit)


@cache
def _units_of(section: type[SettingsSection]) -> dict[str, SettingUnit | None]:
    """The fields of a section, and what their numbers count."""
    return {name: _unit(field.annotation, field.metadata) for name, field in section.model_fields.items()}


def _unit(annotation: Any, metadata: Iterable[Any]) -> SettingUnit | None:
    """What a field's numbers count, as its type says."""
    for each in metadata:
        if isinstance(each, BeforeValidator):
            return _UNITS.get(each.func)
    for inner in get_args(annotation):
        found = _unit(inner, getattr(inner, "__metadata__", ()))
        if found is not None:
            return found
    return None


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret that stands in a place for one."""
    for leaf in leaves(settings):
        for each in leaf.value if isinstance(leaf.value, tuple) else (leaf.value,):
            if isinstance(each, SecretStr):
                yield each.get_secret_value()


def _row(leaf: SettingLeaf, defaults: Mapping[SettingPath, Any], source: SettingSource, key: bytes) -> SettingRow:
    path, value, unit = leaf
    shown, is_secret = masked(path, value)
    names = (*source.variables, *((source.name,) if source.kind == "environment" and source.name else ()))
    if isinstance(shown, str) and shown and any(map(is_secret_name, names)) and not path[-1].endswith("url"):
        shown, is_secret = MASK, True
    default = masked(path, defaults.get(path))[0]
    return SettingRow(path, shown, default, unit, is_secret, source, _fingerprint(value, key))


def _fingerprint(value: Any, key: bytes) -> bytes:
    plain = _revealed(value)
    return hmac.digest(key, to_json(plain), hashlib.sha256)


def _revealed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {str(name): _revealed(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_revealed(each) for each in value]
    return to_jsonable_python(value)


def _set_by_program(leaf: SettingLeaf, defaults: Mapping[SettingPath, Any]) -> SettingSource:
    is_default = leaf.path in defaults and _revealed(defaults[leaf.path]) == _revealed(leaf.value)
    return SettingSource("default" if is_default else "program")


def _source(path: SettingPath, loaded: LoadedSettings) -> SettingSource:
    for length in range(len(path), 0, -1):
        label = loaded.origins.get(path[:length])
        if label is not None:
            variable = loaded.variable_of(path[:length])
            return SettingSource("command_line", label) if variable is None else SettingSource("environment", variable)
    if not _is_written(path, loaded.written):
        return SettingSource("default")
    variables: tuple[str, ...] = ()
    for length in range(len(path), 0, -1):
        variables += loaded.variables.get(path[:length], ())
    return SettingSource("file", None, tuple(dict.fromkeys(variables)))


def _is_written(path: SettingPath, written: Any) -> bool:
    for name in path:
        if isinstance(written, Mapping):
            written = written[name] if name in written else _by_text(written, name)
            if written is None:  # a key without a value keeps its default
                return False
        elif isinstance(written, list) and name.isdigit() and int(name) < len(written):
            written = written[int(name)]
        else:
            return True
    return True


def _by_text(written: Mapping[Any, Any], name: str) -> Any:
    """The value of a key that YAML has read as something else than text, such as a number; ``None`` without one."""
    return next((each for key, each in written.items() if not isinstance(key, str) and str(key) == name), None)
