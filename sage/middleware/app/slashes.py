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
    """Finds the path that is meant. It knows the ``templates`` of all routes, in their order."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._templates = [
            (template, _pattern(template, "/", ""), _pattern(template, "/+", "/*")) for template in templates
        ]
        self._empty_names = frozenset(
            template[: match.start() + 1]
            for template, _, _ in self._templates
            if (match := _PARAMETER.search(template)) and match[1] in _NAMES and match.end() == len(template)
        )

    def without_extra(self, path: str, method: str) -> str:
        """``path`` without the slashes that no route and no id has.

        To read ``/models/`` is to list them all; to write it is to have forgotten a name.
        """
        path = "/" + path.lstrip("/")
        if path in self._empty_names and method not in ("GET", "HEAD"):
            return path
        if any(exact.fullmatch(path) for _, exact, _ in self._templates):
            return path
        for template, _, loose in self._templates:
            match = loose.fullmatch(path)
            if match is not None:
                values = match.groupdict()
                return _PARAMETER.sub(lambda parameter: f"/{values[parameter[1]]}", template)  # noqa: B023 (called here)
        return path


@cache  # a quarter of what it takes to make a gateway, of which the tests make hundreds in a process
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
