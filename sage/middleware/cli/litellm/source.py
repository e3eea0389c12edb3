"""Reads LiteLLM's configuration: its file with those that it includes, and values from the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sage.errors import ConfigError

_VARIABLE = "os.environ/"
_MAX_INCLUDES = 100


def read_litellm(path: Path) -> dict[str, Any]:
    """The mapping of the file, with those of ``include`` merged in. Raises :class:`ConfigError`."""
    data = _read(path)
    included = _names(data.pop("include", None))
    for name in included[:_MAX_INCLUDES]:
        for key, value in _read(path.parent / name).items():
            if isinstance(value, list) and isinstance(data.get(key), list):
                data[key] = [*data[key], *value]
            elif isinstance(value, dict) and isinstance(data.get(key), dict):
                data[key] = {**data[key], **value}
            else:
                data[key] = value
    if not isinstance(data.get("model_list"), list):
        raise ConfigError(f"{path}: this is not LiteLLM's configuration: it has no 'model_list'")
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark is not None else 1
        raise ConfigError(f"{path}: line {line}: {exc.problem or 'is no YAML'}") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{path}: is no YAML") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: this is not LiteLLM's configuration: it has no 'model_list'")
    return {str(key): value for key, value in data.items()}


def _names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def variable_of(value: Any) -> str | None:
    """The variable that ``os.environ/NAME`` names; ``None`` for every other value."""
    if not isinstance(value, str) or not value.startswith(_VARIABLE):
        return None
    name = value.removeprefix(_VARIABLE).strip()
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else None
