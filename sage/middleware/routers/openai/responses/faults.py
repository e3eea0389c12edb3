"""Errors that name the place in a request of Responses."""

from __future__ import annotations

from typing import Any, NoReturn

from sage.errors import InvalidRequest, Unsupported


def wrong(where: str, expected: str) -> NoReturn:
    """Raises :class:`InvalidRequest`: ``where`` must be ``expected``."""
    raise InvalidRequest(f"'{where}' must be {expected}", param=where)


def text_in(item: dict[str, Any], name: str, where: str) -> str:
    """The text ``name`` of ``item``; raises :class:`InvalidRequest` where it is none."""
    value = item.get(name)
    if not isinstance(value, str):
        wrong(f"{where}.{name}", "text")
    return value


def name_in(item: dict[str, Any], name: str, where: str) -> str:
    """The same for a text that must not be empty."""
    value = text_in(item, name, where)
    if not value:
        wrong(f"{where}.{name}", "a text that is not empty")
    return value


def only_native(what: str, where: str, instead: str) -> Unsupported:
    """For what only an upstream with a Responses route of its own can take."""
    return Unsupported(
        f"{where}: {what} cannot be translated for a model that speaks chat completions; {instead}, or ask a model "
        "whose provider has the Responses route",
        param=where,
        code="unsupported_by_translation",
    )
