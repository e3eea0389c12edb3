"""Which legacy encoding a text is in: of chardet's candidates the first that makes plausible text.

Of short texts chardet's best guess is often wrong, but a wrong encoding makes text that nobody writes: Latin and
Cyrillic letters in one word, capitals after small letters, rare characters only. Where no candidate passes, or several
are as likely, none is taken: a text that is refused can be ingested with ``--encoding``, while nonsense would be stored
and found by nobody.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sage.errors import MissingExtra

_EAST_ASIAN = ("gb18030", "big5hkscs", "cp932", "euc_jis_2004", "cp949", "iso2022_jp_2", "iso2022_kr", "hz", "euc_kr")
_LATIN = ("cp1252", "cp1250", "cp1254", "cp1257", "cp1258", "iso8859-2", "iso8859-9", "iso8859-15")
_OTHER = ("cp1251", "koi8-r", "koi8-u", "cp866", "iso8859-5", "cp1253", "iso8859-7", "cp1255", "cp1256", "cp874")
_AS_WRITTEN = {"euc_jis_2004": "euc_jp", "iso2022_jp_2": "iso2022_jp", "euc_kr": "cp949"}
_SAMPLE = 64 * 1024  # bytes that decide
_LEAST, _LONG = 6, 16
"""Bytes beyond ASCII: fewer letters of one byte could be of any script; of more, chardet is hardly ever wrong."""
_LETTER = re.compile(rb"[A-Za-z]")
_LINE_END = re.compile(rb"[\r\n<>]+")  # none of them is the second byte of a character
_HIGH = re.compile(rb"[\x80-\xff]")
_SIGNS = re.compile("(?:[\x00-\x7f]|[€£¥§©®°±²³µ·–—‘’“”…•«»™¼½¾](?=[\x00-\x7f]|$))*".encode("cp1252"))
"""ASCII with signs that stand alone, such as those of currencies and quotations."""
_HIGH_RUN = re.compile(rb"[\x80-\xff]{3,}")
_WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f\u0590-\u05ff\u0e31-\u0e4e])*")
_OUT_OF_PLACE = re.compile(
    r"\w[\u201a\u201e\u2020\u2021\u02c6\u2030\u2039\u2500-\u259f]|[\u2500-\u259f]\w"
    r"|(?<=[^\W\d_])[…•™˜¦¬±¶¸º¼½¾¿¡¢£¤¥§©«®°»÷×](?=[^\W\d_])"
)
_SCRIPTS = re.compile("(LATIN|CYRILLIC|GREEK|HEBREW|ARABIC|THAI|HANGUL|CJK|HIRAGANA|KATAKANA)")
_COMMON = (("gb2312", b"\xb0", b"\xd7"), ("big5", b"\xa4", b"\xc6"), ("euc_jp", b"\xb0", b"\xcf"))
"""First bytes of the characters that are most used in China, in Taiwan and in Japan."""


@dataclass(frozen=True, slots=True)
class _Guess:
    name: str
    confidence: float
    text: str


class _Sample:
    """The lines and elements of a text that have bytes beyond ASCII, and how many such bytes (``high``)."""

    def __init__(self, part: bytes) -> None:
        content = b"\n".join(line for line in _LINE_END.split(part) if _HIGH.search(line))
        self.content = content
        self.high = len(_HIGH.findall(content))
        in_runs = sum(len(run) for run in _HIGH_RUN.findall(content))
        letters = len(_LETTER.findall(content))
        has_letters = letters * 3 >= self.high * 2 if self.high >= 8 else letters * 2 >= self.high * 3
        self.looks_latin = self.high > 0 and has_letters and in_runs * 2 < self.high
        """In Latin letters most accents stand between ASCII; in other scripts hardly any letter does."""


def legacy_encoding(data: bytes) -> str | None:
    """The name of the codec of a text that is not UTF-8; ``None`` means that it is not clear.

    Raises :class:`MissingExtra` without chardet.
    """
    if _SIGNS.fullmatch(data):
        return "cp1252"
    first = _HIGH.search(data)
    begin = max(0, first.start() - 1024) if first else 0
    sample = _Sample(data[begin : begin + _SAMPLE])
    guesses = []
    for name, confidence in _candidates(sample).items():
        text = _decoded(data, name)  # before the first byte beyond ASCII, a character is a byte
        if text is not None and _is_plausible(part := text[begin : begin + _SAMPLE], name):
            guesses.append(_Guess(name, confidence, part.lower()))
    return _clearest(guesses, sample.high)


def _candidates(sample: _Sample) -> dict[str, float]:
    """Codecs and how far chardet believes in them, the likeliest first."""
    found = _detect_all(sample.content)
    latin = {name: confidence for name, confidence in found.items() if name in _LATIN}
    others = {name: confidence for name, confidence in found.items() if name not in _LATIN}
    best = max(others.values(), default=0.0)
    least = best * (0.3 if sample.high < 8 else 0.5)
    others = {name: confidence for name, confidence in others.items() if confidence >= least}
    if not sample.looks_latin:
        return others
    western = latin.get("cp1252", 0.0)
    if sample.high < 8 and western >= 0.7 * max(latin.values(), default=0.0):
        latin = {"cp1252": western, **latin}
    # Big5 and Shift JIS have ASCII as second bytes.
    return latin | {name: confidence for name, confidence in others.items() if name not in _OTHER}


def _detect_all(sample: bytes) -> dict[str, float]:
    try:
        import chardet
    except ImportError as exc:
        raise MissingExtra("reading text that is not UTF-8", "ingest") from exc
    found = chardet.detect_all(
        sample,
        ignore_threshold=True,
        max_bytes=_SAMPLE,
        compat_names=False,
        prefer_superset=False,
        include_encodings=(*_EAST_ASIAN, *_LATIN, *_OTHER),
    )
    names: dict[str, float] = {}
    known = {*_EAST_ASIAN, *_LATIN, *_OTHER}
    for result in found:
        name = str(result["encoding"])
        if name in known:
            names.setdefault(_AS_WRITTEN.get(name, name), result["confidence"])
    return names


def _clearest(guesses: Sequence[_Guess], high: int) -> str | None:
    """The first guess; ``None`` where the text is short and another one is nearly as likely."""
    if not guesses:
        return None
    first = guesses[0]
    if first.name in _LATIN or high >= _LONG:
        return first.name
    if high < (_LEAST if first.name in _OTHER else 8) and (first.name in _OTHER or first.confidence < 0.05):
        return None
    share = 0.85 if high >= 8 else 0.3
    if any(guess.confidence >= share * first.confidence and guess.text != first.text for guess in guesses[1:]):
        return None
    return first.name


def _is_plausible(text: str, name: str) -> bool:
    if any(unicodedata.category(char) in ("Cc", "Co", "Cn") and char not in "\t\n\r\f\x1a\x1b" for char in set(text)):
        return False
    if name not in _LATIN and name not in _OTHER:
        return _is_plausible_east_asian(text, name)
    words = set(_WORD.findall(text))
    if name in _LATIN and not _has_plain_letters(words):
        return False
    return not _OUT_OF_PLACE.search(text) and all(map(_is_plausible_word, words))


def _is_plausible_word(word: str) -> bool:
    """Of one script, and without capitals after small letters beyond ASCII."""
    if word.isascii():
        return True
    return len({_script(char) for char in word if char.isalpha()}) == 1 and not _is_case_broken(word)


def _is_case_broken(word: str) -> bool:
    return any(
        first.islower() and second.isupper() and not (first.isascii() and second.isascii())
        for first, second in pairwise(word)
    )


def _has_plain_letters(words: Iterable[str]) -> bool:
    """Whether most words with accents have letters without one, as they do in all languages written in Latin."""
    accented = [word for word in words if not word.isascii() and len(word) > 1]
    without = sum(not any(char.isascii() for char in word) for word in accented)
    return without * 4 <= len(accented)


def _is_plausible_east_asian(text: str, name: str) -> bool:
    wide = [char for char in text if ord(char) > 0x7F]
    letters = [char for char in wide if char.isalpha()]
    scripts = [_script(char) for char in letters]
    hangul, ideographs = scripts.count("HANGUL"), scripts.count("CJK")
    kana = scripts.count("HIRAGANA") + scripts.count("KATAKANA")
    narrow = sum("\uff61" <= char <= "\uff9f" for char in wide)
    if len(letters) - hangul - kana - narrow - ideographs > len(letters) // 10:
        return False  # Greek, Cyrillic and others, which these encodings have too
    if name in ("cp949", "iso2022_kr"):
        rare = sum(_script(char) == "HANGUL" and len(_encoded(char, "euc_kr")) != 2 for char in letters)
        return hangul > 0 and hangul * 2 >= len(letters) and rare * 5 <= hangul
    common = sum(_is_common(char) for char, script in zip(letters, scripts, strict=True) if script == "CJK")
    if hangul or common < 0.8 * ideographs:
        return False
    if name in ("gb18030", "big5hkscs", "hz"):
        return ideographs > 0 and kana * 8 <= len(letters) and not narrow
    return narrow * 2 <= len(wide) and (kana > 0 or 0 < len(letters) < 20)


@functools.cache
def _script(char: str) -> str:
    match = _SCRIPTS.match(unicodedata.name(char, ""))
    return match[1] if match else ""


@functools.cache
def _is_common(char: str) -> bool:
    return any(low <= _encoded(char, codec)[:1] <= high for codec, low, high in _COMMON)


def _encoded(char: str, codec: str) -> bytes:
    return char.encode(codec, "ignore")


def _decoded(data: bytes, name: str) -> str | None:
    """``None`` means that it is not in that encoding."""
    try:
        return data.decode(name)
    except UnicodeDecodeError:
        return None
