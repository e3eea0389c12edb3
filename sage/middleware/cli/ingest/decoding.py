"""Text from bytes: byte order marks, UTF-8, UTF-16 and GB18030 are detected; else it is Windows-1252 or binary."""

from __future__ import annotations

import codecs
import re

from sage.middleware.cli.ingest.document import Unreadable

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 64 * 1024  # bytes that decide
_PAIR = re.compile(rb"[\x81-\xfe](?:[\x30-\x39][\x81-\xfe][\x30-\x39]|[\x40-\x7e\x80-\xfe])")
_FULL_PAIR = re.compile(rb"[\xa1-\xf7][\xa1-\xfe]")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def is_binary(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is not text: it has NULs outside UTF-16, or many control characters."""
    if not head or _by_mark(head) or _unmarked_utf16(head):
        return False
    return b"\x00" in head or len(_CONTROL.findall(head)) > len(head) // 20


def decode(data: bytes, encoding: str | None = None) -> str:
    """The text, with line ends as ``\\n``. ``None`` means to detect the encoding. Raises :class:`Unreadable`."""
    codec = encoding or detect(data)
    try:
        text = data.decode(codec)
    except (UnicodeDecodeError, LookupError) as exc:
        raise Unreadable(f"is not {codec} text: {exc}; name its encoding with --encoding") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


def detect(data: bytes) -> str:
    """The name of a codec. UTF-8 is tried first: text in another encoding is hardly ever valid UTF-8."""
    if by_mark := _by_mark(data):
        return by_mark
    if utf16 := _unmarked_utf16(data[:_SAMPLE]):
        return utf16
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass
    return "gb18030" if _chinese(data) else "cp1252" if _decodes(data, "cp1252") else "latin-1"


def _by_mark(data: bytes) -> str | None:
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def _unmarked_utf16(data: bytes) -> str | None:
    """The byte order of UTF-16 without a mark, or ``None``. Latin text has a NUL in every other byte."""
    if len(data) < 4 or b"\x00" not in data:
        return None
    even, odd = data[0::2].count(0), data[1::2].count(0)
    name = "utf-16-le" if odd > even else "utf-16-be"
    few, many = min(even, odd), max(even, odd)
    sample = data[: len(data) // 2 * 2]
    if few * 20 > many or not _decodes(sample[:-2], name):
        return None
    text = sample[:-2].decode(name)
    unprintable = sum(1 for char in text if not (char.isprintable() or char.isspace()))
    return name if unprintable * 50 <= len(text) else None


def _chinese(data: bytes) -> bool:
    """Whether it decodes as GB18030 and its pairs look like Chinese, not like accents among Latin letters."""
    if not _decodes(data, "gb18030"):
        return False
    pairs = _PAIR.findall(data[:_SAMPLE])
    full = [pair for pair in pairs if _FULL_PAIR.fullmatch(pair)]
    return bool(pairs) and len(full) >= 0.6 * len(pairs)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
