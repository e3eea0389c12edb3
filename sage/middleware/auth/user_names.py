"""Names of users, in any script: their one form, when two are the same, and which are too easily mistaken.

As Unicode's technical standard 39 (identifiers, "highly restrictive") and RFC 8265 (user names) advise: compatibility
forms are one (full-width letters are letters), no invisible characters, and Latin letters are not mixed with those of
another alphabet, some of which look alike.
"""

from __future__ import annotations

import re
import unicodedata

from sage.errors import InvalidRequest

MAX_LENGTH = 64
_ASCII = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_SIGNS = frozenset("._@+-")
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_EAST_ASIAN = frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"})
"""Scripts that are written together."""
_LOOK_LATIN = str.maketrans(
    "авекмнорстухіјѕһԁԛԝӏґ" + "ανεικοπρτυχηϲ",
    "abekmhopctyxijshdqwlr" + "aveikonptuxnc",
)
"""Small letters of Cyrillic and Greek, as Latin ones for which a reader takes them or their capitals."""


def user_name(text: str) -> str:
    """The form in which a name is stored. Raises :class:`InvalidRequest` for what can be no user's name."""
    if _ASCII.fullmatch(text) is not None:
        return text
    name = unicodedata.normalize("NFKC", text[: 4 * MAX_LENGTH])
    categories = [unicodedata.category(char) for char in name]
    is_good = (
        0 < len(name) <= MAX_LENGTH
        and len(text) <= 4 * MAX_LENGTH
        and categories[0][0] in "LN"
        and all(kind[0] in "LM" or kind == "Nd" or char in _SIGNS for char, kind in zip(name, categories, strict=True))
        and _INVISIBLE.search(name) is None
    )
    if not is_good:
        raise InvalidRequest(
            "a user name has 1 to 64 letters and digits of any script and . _ @ + -, and starts with a letter or digit",
            param="username",
        )
    scripts = {_script(char) for char, kind in zip(name, categories, strict=True) if kind[0] == "L"}
    if len(scripts) > 1 and not scripts <= _EAST_ASIAN:
        raise InvalidRequest(
            f"the user name '{name}' mixes letters of several alphabets, which may look alike; use one",
            param="username",
        )
    return name


def account_of(text: str) -> str:
    """The same for all spellings of one name, in upper and lower case. Any text may be asked for; it never raises."""
    if text.isascii():
        return text[: MAX_LENGTH + 1].lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[: 4 * MAX_LENGTH]).casefold())[
        : MAX_LENGTH + 1
    ]


def looks_of(name: str) -> str:
    """The same for two names that a reader could take for each other."""
    return account_of(name).translate(_LOOK_LATIN)


def _script(letter: str) -> str:
    """The script of a letter, by its name in Unicode, which begins with it."""
    return unicodedata.name(letter, "?").split()[0]
