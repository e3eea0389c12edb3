"""Paths with a slash too many, as clients make them of an address that ends with one: ``//v1/models``, ``/v1/models/``.

They mean the path without it. An id is taken as it is: ``/kv/a//b/`` is the key ``a//b/``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_PARAMETER = re.compile(r"/\{(\w+)(:path)?\}")
_NAMES = frozenset({"name", "model"})
"""Parameters that may hold slashes, but neither begin nor end with one. Those of all other names are any text."""


class Slashes:
    """Finds the path that is meant. It knows the ``templates`` of all routes, in their order.

    Their patterns are made for the first path with a slash too many: they are a hundredth of a gateway's start.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        self._templates = list(templates)
        self._empty_names = frozenset(
            template[: match.start() + 1]
            for template in self._templates
            if (match := _PARAMETER.search(template)) and match[1] in _NAMES and match.end() == len(template)
        )

    def without_extra(self, path: str, method: str) -> str:
        """``path`` without the slashes that no route and no id has.

        To read ``/models/`` is to list them all; to write it is to have forgotten a name.
        """
        path = "/" + path.lstrip("/")
        if path in self._empty_names and method not in ("GET", "HEAD"):
            return path
        if any(_exact(template).fullmatch(path) for template in self._templates):
            return path
        for template in self._templates:
            match = _loose(template).fullmatch(path)
            if match is not None:
                values = match.groupdict()
                return _PARAMETER.sub(lambda parameter: f"/{values[parameter[1]]}", template)  # noqa: B023 (called here)
        return path


@cache
def _exact(template: str) -> re.Pattern[str]:
    return _pattern(template, "/", "")


@cache
def _loose(template: str) -> re.Pattern[str]:
    return _pattern(template, "/+", "/*")


def _pattern(template: str, slash: str, end: str) -> re.Pattern[str]:
    """The paths of ``template``, whose own slashes are written as ``slash``, and which end with ``end``.

    The slash before a parameter is always one: two of them are what a client sends whose value is empty, and the text
    behind them is not that value.
    """
    pattern, position = "", 0
    for parameter in _PARAMETER.finditer(template):
        name, is_long = parameter.groups()
        pattern += _literal(template[position : parameter.start()], slash) + f"/(?P<{name}>{_value(name, is_long)})"
        position = parameter.end()
    return re.compile(pattern + _literal(template[position:], slash) + end, re.DOTALL)


def _literal(text: str, slash: str) -> str:
    return slash.join(re.escape(part) for part in text.split("/"))


def _value(name: str, is_long: str | None) -> str:
    if is_long is None:
        return "[^/]+"
    return "[^/](?:.*[^/])?" if name in _NAMES else ".*"
