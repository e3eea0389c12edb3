"""Text from bytes: Unicode in all its encodings, with and without a mark, else a legacy encoding, or binary."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator

from sage.middleware.ingest.document import Unreadable
from sage.middleware.ingest.legacy_encodings import legacy_encoding

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 64 * 1024  # bytes that decide
_LEAST_WIDE = 16  # bytes of UTF-16 that are told from other text, where none of them is a control character
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_ALPHABETS = ("gb2312", "big5", "cp932", "cp949", "cp1250", "cp1251", "cp1252", "cp1253", "cp1255", "cp1256", "cp874")
"""Encodings of the characters that are common in one country: text in any other Unicode encoding is in one of them."""


def is_binary(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is not text: it has NULs outside UTF-16 and UTF-32, or many control
    characters."""
    if not head or _by_mark(head):
        return False
    if b"\x00" not in head and len(_CONTROL.findall(head)) <= len(head) // 20:
        return False
    return _unmarked(head) is None


def decode(data: bytes, encoding: str | None = None) -> str:
    """The text, with line ends as ``\\n``. ``None`` means to detect the encoding; a byte that does not fit into UTF-8
    then becomes U+FFFD. Raises :class:`Unreadable`."""
    codec = encoding or detect(data)
    try:
        text = data.decode(codec, "strict" if encoding else "replace")
    except (UnicodeDecodeError, LookupError) as exc:
        raise Unreadable(f"is not {codec} text: {exc}; name its encoding with --encoding") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


def detect(data: bytes) -> str:
    """The name of a codec. Raises :class:`Unreadable` when it is not clear."""
    name = unicode_encoding(data) or legacy_encoding(data)
    if name is None and len(data) >= _LEAST_WIDE:
        name = _unmarked(data[:_SAMPLE])
    if name is None:
        raise Unreadable("is in an encoding that cannot be told from its text; name it with --encoding")
    return name


def unicode_encoding(data: bytes) -> str | None:
    """UTF-8 comes before others without a mark: text in another encoding is hardly ever valid UTF-8. ISO 2022 is told
    by its escapes."""
    if by_mark := _by_mark(data):
        return by_mark
    sample = data[:_SAMPLE]
    if b"\x00" in sample and (wide := _unmarked(sample)):
        return wide
    names = ("iso2022_jp", "iso2022_kr", "utf-8") if b"\x1b$" in data else ("utf-8",)
    if name := next((name for name in names if _decodes(data, name)), None):
        return name
    if _CONTROL.search(sample) and (wide := _unmarked(sample)):
        return wide
    return "utf-8" if _is_nearly_utf8(data) else None


def _is_nearly_utf8(data: bytes) -> bool:
    """Whether all but a few of the characters beyond ASCII are UTF-8: logs, for example, are cut anywhere."""
    text = data.decode("utf-8", "replace")
    faults = text.count("\ufffd")
    return sum(char > "\x7f" for char in text) - faults >= 4 * faults


def _by_mark(data: bytes) -> str | None:
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def _unmarked(head: bytes) -> str | None:
    """The byte order of UTF-16 or UTF-32 without a mark; ``None`` means that it is neither. In the right one nearly
    all characters are common ones of one country, in others they are of all the world."""
    scores = dict(_scores(head))
    best = max(scores, key=lambda name: scores[name], default=None)
    return best if best is not None and scores[best] >= 0.9 else None


def _scores(head: bytes) -> Iterator[tuple[str, float]]:
    for name in _WIDE:
        size = int(name[4:6]) // 8
        whole = head[: len(head) // size * size]
        try:
            text = whole.decode(name)
        except UnicodeDecodeError as exc:
            if exc.start < len(whole) - size:  # not just a pair of surrogates that the head ends in
                continue
            text = whole[: exc.start].decode(name)
        text = "".join(char for char in text if char <= "\uffff") or text  # emoji are in none of the alphabets
        printable = [char for char in text if unicodedata.category(char) != "Cc" or char in "\t\n\r\f"]
        if printable:
            most = max(
                len("".join(printable).encode(alphabet, "ignore").decode(alphabet, "ignore")) for alphabet in _ALPHABETS
            )
            yield name, most / len(text)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
