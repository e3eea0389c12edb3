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

JOINTS = ("; ", ": ")
"""What stands between two texts, the cause or an advice behind a message."""
_PLACES = re.compile(r"\S*[./]\S*(: \S+)+")
_DEEPEST = 4
"""Texts in texts that are translated."""


def translated(text: str) -> str:
    """``text`` in the user's language; as it is where no template fits."""
    messages = current()
    if messages is None or text in messages.messages:
        return messages.gettext(text) if messages is not None else text
    return "\n".join(_translated(messages, line, 0) for line in text.split("\n"))


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
    quoted: frozenset[str]
    """Names of values between quotes: what the user wrote, which stays as it is."""

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
        if parts is not None and any(char.isalpha() for text, _ in parts for char in text):
            literals = tuple(text for text, _ in parts if text)
            quoted = _quoted(parts)
            templates.append(_Template(english, literals, _pattern(parts, quoted), translation, quoted))
    return sorted(templates, key=lambda template: -template.weight)


def _quoted(parts: list[tuple[str, str | None]]) -> frozenset[str]:
    pairs = zip(parts, [*parts[1:], ("", None)], strict=True)
    return frozenset(name for (text, name), (after, _) in pairs if name and text.endswith("'") and after[:1] == "'")


def _pattern(parts: list[tuple[str, str | None]], quoted: frozenset[str]) -> str:
    pattern, names = "", set()
    for text, name in parts:
        pattern += re.escape(text)
        if name is not None:
            value = "[^']*" if name in quoted else ".*?"
            pattern += f"(?P={name})" if name in names else f"(?P<{name}>{value})"
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
            values = {
                name: value if name in template.quoted else _translated(messages, value, depth + 1)
                for name, value in match.groupdict().items()
            }
            return template.translation.format(**values)
    return _joined(messages, text, depth)


def _joined(messages: Catalogue, text: str, depth: int) -> str:
    """``text`` as two texts with a joint between them, if one of them has a translation; names of places, such as
    ``config.yaml: api``, with the joints of the language before what they are of."""
    for joint in re.finditer("|".join(JOINTS), text):
        left, right = text[: joint.start()], text[joint.end() :]
        shown = (_translated(messages, left, depth + 1), _translated(messages, right, depth + 1))
        if shown != (left, right):
            return messages.gettext(joint[0]).join(shown)
    return text.replace(": ", messages.gettext(": ")) if depth and _PLACES.fullmatch(text) else text
