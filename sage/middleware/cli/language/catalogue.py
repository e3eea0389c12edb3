"""The language of the command line, and its catalogue of messages.

``SAGE_LANG`` chooses the language, else the locale. Catalogues are gettext's ``.po`` files beside this module, read as
they are: there is nothing to compile. ``python tests/cli_messages.py --write`` brings them up to date with the code.
What has no translation is shown in English.
"""

from __future__ import annotations

import ast
import gettext
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).parent
_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")
"""The variables that name the user's language, the strongest first."""


class Catalogue(gettext.NullTranslations):
    """The translations of a ``.po`` file, by the message in English."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__()
        self.messages = {english: text for english, text in read_po(lines) if english and text}

    def gettext(self, message: str) -> str:
        return self.messages.get(message, message)


def read_po(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The entries of a ``.po`` file: a message and its translation, which is empty for what nobody has reviewed."""
    parts: dict[str, str] = {}
    field, is_fuzzy = "", False
    for line in (*lines, ""):
        line = line.strip()
        keyword, _, quoted = line.partition(" ")
        if not line or (line.startswith("#") and "msgstr" in parts):
            if parts:
                yield parts["msgid"], "" if is_fuzzy else parts["msgstr"]
            parts, is_fuzzy = {}, False
        if line.startswith("#,"):
            is_fuzzy = "fuzzy" in line
        elif keyword in ("msgid", "msgstr"):
            field = keyword
            parts[field] = ast.literal_eval(quoted)
        elif line.startswith('"'):
            parts[field] += ast.literal_eval(line)


def language(variables: Mapping[str, str]) -> str:
    """The user's language, such as ``zh_CN.UTF-8``; an empty text means that they have chosen none."""
    return next((variables[name] for name in ("SAGE_LANG", *_LOCALE) if variables.get(name)), "")


@cache
def catalogue(language: str) -> Catalogue | None:
    """The catalogue of ``language``, ``zh_TW`` being served by ``zh`` too; ``None`` means English."""
    name = language.lower().replace("-", "_").partition(".")[0].partition("_")[0]
    file = DIRECTORY / f"{name}.po"
    if not name.isalpha() or not file.is_file():
        return None
    with file.open(encoding="utf-8") as lines:
        return Catalogue(lines)


def current() -> Catalogue | None:
    """The catalogue of this process's environment; ``None`` means English."""
    return catalogue(language(os.environ))


def N_(message: str) -> str:
    """``message`` as it is: marks a text that is translated when it is shown, by ``_`` or ``translated``."""
    return message


def _(message: str) -> str:
    """``message`` in the user's language. Values go into it afterwards: ``_("{name}: removed").format(name=name)``."""
    messages = current()
    return messages.gettext(message) if messages is not None else message
