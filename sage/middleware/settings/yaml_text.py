"""YAML as configurations are written in it: safe, no key twice, and faults that quote no value."""

from __future__ import annotations

import re
from typing import Any

import yaml

from sage.errors import ConfigError


class YamlFault(ConfigError):
    """Says what is wrong with a text, in words that show nothing of its values: they may be secrets."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a duplicate key is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str) and key in keys:
            raise yaml.MarkedYAMLError(problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark)
        if isinstance(key, str):
            keys.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(text: str) -> Any:
    """The value of ``text``. Raises :class:`YamlFault`, and :class:`ValueError` for a date or a number that does not
    exist."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as exc:
        raise YamlFault(_fault(exc)) from None  # its text quotes the line


def _fault(exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
    # A password that begins with * or ! reads as an alias or a tag.
    problem = re.sub(r"(alias|anchor|tag|tag handle) ['\"].*", r"\1; put the value in quotes", problem)
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem
