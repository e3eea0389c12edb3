"""Translation of finished texts: errors are made in rooms that know no language, of a template and values.

A catalogue has their templates, such as ``user '{name}' does not exist``. The template of a text is found here, and its
translation filled with the same values, which may be texts of templates themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from string import Formatter

from sage.middleware.cli.language.catalogue import Catalogue, current

_DEEPEST = 4
"""Texts in texts that are translated."""


def translated(text: str) -> str:
    """``text`` in the user's language; as it is where no template fits."""
    messages = current()
    return _translated(messages, text, 0) if messages is not None else text


def parts_of(message: str) -> list[tuple[str, str | None]] | None:
    """The literal texts of a template, each with the name that follows it; ``None`` if it has no names."""
    try:
        parts = [(text, name) for text, name, _, _ in Formatter().parse(message)]
    except ValueError:
        return None
    names = [name for _, name in parts if name is not None]
    return parts if names and all(name.isidentifier() for name in names) else None


@dataclass(frozen=True)
class _Template:
    english: str
    literals: tuple[str, ...]
    pattern: str
    translation: str

    @property
    def weight(self) -> int:
        """How much of a text it determines."""
        return sum(map(len, self.literals))


@cache
def _templates(messages: Catalogue) -> list[_Template]:
    """The templates of a catalogue, the most exact first."""
    templates = []
    for english, translation in messages.messages.items():
        parts = parts_of(english)
        if parts is not None:
            literals = tuple(text for text, _ in parts if text)
            templates.append(_Template(english, literals, _pattern(parts), translation))
    return sorted(templates, key=lambda template: -template.weight)


def _pattern(parts: list[tuple[str, str | None]]) -> str:
    pattern, names = "", set()
    for text, name in parts:
        pattern += re.escape(text)
        if name is not None:
            pattern += f"(?P={name})" if name in names else f"(?P<{name}>.*?)"
            names.add(name)
    return pattern


def _translated(messages: Catalogue, text: str, depth: int) -> str:
    if depth > _DEEPEST or not text or text in messages.messages:
        return messages.gettext(text)
    for template in _templates(messages):
        if not all(literal in text for literal in template.literals):
            continue
        match = re.fullmatch(template.pattern, text, re.DOTALL)
        if match is not None:
            values = {name: _translated(messages, value, depth + 1) for name, value in match.groupdict().items()}
            return template.translation.format(**values)
    return _joined(messages, text, depth)


def _joined(messages: Catalogue, text: str, depth: int) -> str:
    """``text`` as two texts, the cause or an advice behind the message, if one of them has a translation."""
    for joint in re.finditer("[;:] ", text):
        left, right = text[: joint.start()], text[joint.end() :]
        shown = (_translated(messages, left, depth + 1), _translated(messages, right, depth + 1))
        if shown != (left, right):
            return joint[0].join(shown)
    return text
