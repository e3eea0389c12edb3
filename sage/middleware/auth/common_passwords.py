"""How easily a password is guessed by who knows the common ones: refuses what is made of little else.

A password is cut into parts so that they are worth as little as possible together, counted in decimal digits of
the guesses that a part takes, roughly:

- one of 30,000 common passwords, also backwards: 3; the user's own name and words of this product: 1;
- digits and signs in a row, however many: 2, one of them alone: 1;
- neighbours in the alphabet or on a keyboard, from three on: 2; one character again and again: 1;
- what the password has said before, from three characters on: 0;
- any other character: 1.

Upper and lower case and the usual signs for letters (``p@ssw0rd``) make no difference. What is worth less than
``ENOUGH`` is refused: a common password with any digits behind it, two of them, "passwordpassword". Three words that
have nothing to do with each other are enough. The longest password takes some
hundredths of a second.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from sage.errors import InvalidRequest

ENOUGH = 9

_FILE = Path(__file__).parent / "data" / "common-passwords" / "passwords.txt"
_SHORTEST, _LONGEST = 4, 32  # characters of a common password
_PRODUCT = ("sage", "gateway", "middleware", "intellistream", "admin", "administrator")
_LETTERS_MEANT = str.maketrans("@4310$5!7", "aaeiossit")
_ROWS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    *("qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./", "qwertzuiop", "yxcvbnm", "azertyuiop", "wxcvbn"),
    *("1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol.0p;/", "qazwsxedcrfvtgbyhnujmikolp", "1q2w3e4r5t6y7u8i9o0p"),
    "!@#$%^&*()_+",
)
_ROW_TEXT = " ".join((*_ROWS, *(row[::-1] for row in _ROWS)))


def require_uncommon(password: str, about: Iterable[str] = ()) -> None:
    """Raises :class:`InvalidRequest`, without a word of the password, for one that is easily guessed.

    ``about`` are texts that whoever guesses would try first, such as the user's name.
    """
    if worth(password, about) < ENOUGH:
        raise InvalidRequest(
            "the password is too easily guessed: little of it is not a common password, a name, a repetition, a row of "
            "keys, or digits and signs; take a few words that have nothing to do with each other",
            param="password",
            code="common_password",
        )


def worth(password: str, about: Iterable[str] = ()) -> int:
    """How hard ``password`` is to guess, roughly in decimal digits of the guesses; never more than ``ENOUGH``."""
    text = unicodedata.normalize("NFKC", password).casefold()
    known = [part for name in (*about, *_PRODUCT) for part in _parts_of(name)]
    return min(ENOUGH, _cheapest(text, known, _common_in(text)))


def _parts_of(name: str) -> list[str]:
    """A name and its parts, such as those of an address, as far as they have three letters."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return [part for part in {folded, *re.split(r"[\W_]+", folded)} if len(part) >= 3]


def _common_in(text: str) -> set[str]:
    """The common passwords among the pieces of ``text``, which is all of them that is kept."""
    spellings = {text, text.translate(_LETTERS_MEANT)}
    spellings |= {spelling[::-1] for spelling in spellings}
    pieces = {
        spelling[start : start + size]
        for spelling in spellings
        for start in range(len(spelling))
        for size in range(_SHORTEST, min(_LONGEST, len(spelling) - start) + 1)
    }
    with _FILE.open(encoding="utf-8") as file:
        return pieces.intersection(line.rstrip("\n") for line in file)


def _cheapest(text: str, known: Collection[str], common: Collection[str]) -> int:
    """The least that the parts of ``text`` are worth together."""
    meant = text.translate(_LETTERS_MEANT)
    best = [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        best[end] = best[end - 1] + 1
        for start in range(end - 2, -1, -1):
            if best[start] < best[end]:
                best[end] = min(best[end], best[start] + _worth_of(text, meant, start, end, known, common))
    return best[-1]


def _worth_of(text: str, meant: str, start: int, end: int, known: Collection[str], common: Collection[str]) -> int:
    """What the part from ``start`` to ``end`` is worth as one."""
    part, word = text[start:end], meant[start:end]
    size = end - start
    if size >= 3 and part in text[:start]:
        return 0
    if part == part[0] * size or part in known or word in known:
        return 1
    if not any(character.isalpha() for character in part) or (size >= 3 and part in _ROW_TEXT):
        return 2
    if _SHORTEST <= size <= _LONGEST and any(one in common for one in (part, word, part[::-1], word[::-1])):
        return 3
    return size
