"""Scripts: Unicode forms, and the patterns that cut a text into words and runs of one script."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from dataclasses import dataclass

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HANGUL = "\u1100-\u11ff\uac00-\ud7ff"
_UNSPACED = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
"""Thai, Lao, Burmese and Khmer letters, which are written without spaces between words."""
_EMOJI = "\u2600-\u27bf\u2b50\u2b55\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff"
_EMOJI_SEQUENCE = (
    f"[\U0001f1e6-\U0001f1ff]{{2}}|[{_EMOJI}](?:[\ufe0f\U0001f3fb-\U0001f3ff]|\u200d[{_EMOJI}\u2640\u2642])*"
)
_JOINT = r"(?:(?:://|[-._/'@])|(?<=\d),(?=\d{3}(?!\d)))"
_BEFORE_NUMBER = r" (?=\d)(?<=[^\W\d_] )(?=\d+(?:\.\d+)*(?!\w|[-_/'@:.,]\w))"
_SIGNED = r"(?:[cC]\+\+|[cCfF]#)"
_SILENT = re.compile("[\u00ad\u2060\ufeff\u2122\u00ae\u00a9\u2120]")
_LIKE = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-", "\u2212": "-"}
    | {"\u066b": ".", "\u066c": ","}  # of Arabic numbers
    | {chr(code): str(unicodedata.decimal(chr(code))) for code in range(0x80, 0x1FFFF) if chr(code).isdecimal()}
)
_LATIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "þ": "th", "ı": "i", "ħ": "h", "ё": "е", "ς": "σ"}
)


@dataclass(frozen=True, slots=True)
class Patterns:
    """``word`` finds words with what joins them (``rtx-4090``, ``a@b.org``), with the number that follows them
    (``rtx 4090``), emoji too; ``run`` finds runs of scripts
    written without spaces; ``mixed`` cuts a text into such runs (group 1) and all between them."""

    ascii: re.Pattern[str]
    word: re.Pattern[str]
    run: re.Pattern[str]
    mixed: re.Pattern[str]


@functools.cache
def patterns() -> Patterns:
    letter = rf"(?:[^\W{HAN}{_KANA}{_HANGUL}{_UNSPACED}]|[{_marks()}])"
    runs = f"[{HAN}{_KANA}]+|[{_HANGUL}]+|[{_UNSPACED}]+"
    return Patterns(
        ascii=re.compile(_words("[A-Za-z0-9_]")),
        word=re.compile(f"{_EMOJI_SEQUENCE}|{_words(letter)}"),
        run=re.compile(runs),
        mixed=re.compile(f"({runs})|[^{HAN}{_KANA}{_HANGUL}{_UNSPACED}]+"),
    )


def is_unspaced(text: str) -> bool:
    """Whether ``text`` is one run of a script written without spaces between words."""
    return patterns().run.fullmatch(text) is not None


def _words(letter: str) -> str:
    return rf"{_SIGNED}(?!{letter}|[+#])|{letter}+(?:(?:{_JOINT}|{_BEFORE_NUMBER}){letter}+)*"


def _marks() -> str:
    """A character class of the combining marks, which are parts of words (vowels in Hindi, for example)."""
    ranges: list[list[int]] = []
    for code in range(0x300, min(sys.maxunicode, 0x1FFFF)):
        character = chr(code)
        if unicodedata.category(character)[0] == "M" and not 0xFE00 <= code <= 0xFE0F:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    unspaced = re.compile(f"[{_UNSPACED}]")
    spans = ((low, high) for low, high in ranges if not unspaced.match(chr(low)))
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in spans)


def normalize(text: str) -> str:
    """One form for characters that look alike: NFKC, plain apostrophes and hyphens, the digits 0 to 9. Capitals stay,
    since they part words (``getUserById``)."""
    if text.isascii():
        return text
    text = _SILENT.sub("", text)
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    return text.translate(_LIKE)


def fold(word: str) -> str:
    """``word`` in lower case, without marks that writers may leave out: accents of Latin and Greek, vowel points of
    Arabic and Hebrew. Other marks make other letters (``й``, ``が``) and stay."""
    if word.isascii():
        return word.lower()
    characters: list[str] = []
    base = ""
    for character in unicodedata.normalize("NFD", word.casefold()):
        if "\u0300" <= character <= "\u036f" and (base < "\u0400" or "\u1e00" <= base <= "\u1fff"):
            continue
        if "\u0591" <= character <= "\u05c7" or "\u064b" <= character <= "\u065f" or character in "\u0640\u0670":
            continue
        base = base if unicodedata.combining(character) else character
        characters.append(character)
    return unicodedata.normalize("NFC", "".join(characters)).translate(_LATIN)


def clusters(text: str) -> list[tuple[int, int, str]]:
    """``(start, end, normalized)`` of each smallest part of ``text`` that :func:`normalize` changes by itself."""
    starts = [
        index
        for index, character in enumerate(text)
        if index == 0 or not (unicodedata.combining(character) or _continues(character))
    ]
    ends = [*starts[1:], len(text)]
    return [(start, end, normalize(text[start:end])) for start, end in zip(starts, ends, strict=True)]


def _continues(character: str) -> bool:
    """Whether it belongs to the character before: vowels and finals of Hangul, half-width voicing marks and others."""
    return "\u1160" <= character <= "\u11ff" or character in "\uff9e\uff9f" or unicodedata.category(character)[0] == "M"
