"""The parts of a form (RFC 7578) as they come: what every reader of forms does with headers, names and bounds."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sage.errors import InvalidRequest

FORM = "multipart/form-data"
_MAX_HEADERS = 8192
"""Bytes of a part's headers."""


_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_ENCODED = re.compile(rb";[ \t]*filename\*[ \t]*=[ \t]*(utf-8|iso-8859-1)'[^';]*'([^;\s]*)", re.IGNORECASE)
"""RFC 5987. RFC 7578 forbids it in forms, and some clients send names beyond ASCII so."""


class FormParts(ABC):
    """Reads one form piece by piece. Its methods raise :class:`InvalidRequest` for what is no such form."""

    def __init__(self, content_type: str) -> None:
        self.is_complete = False
        """Whether the form has come to its last boundary."""
        self._headers: dict[bytes, bytes] = {}
        """Of the part that is being read, by their names in small letters."""
        self._header_name, self._header_value = bytearray(), bytearray()
        self._header_bytes = 0
        self._parser = self._make_parser(content_type)

    def _make_parser(self, content_type: str) -> MultipartParser:
        media_type, options = parse_options_header(content_type)
        if media_type != FORM.encode() or not options.get(b"boundary"):
            raise InvalidRequest(f"the body must be a form: 'Content-Type: {FORM}; boundary=…'", code="content_type")
        callbacks = {
            "on_part_begin": self._begin_headers,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._add_content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            return MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        except FormParserError as exc:
            raise _not_a_form(exc) from None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise _not_a_form(exc) from None

    def _begin_headers(self) -> None:
        self._headers.clear()
        self._header_bytes = 0
        self._begin_part()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._count_header(end - start)

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._count_header(end - start)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADERS:
            raise InvalidRequest(f"the headers of a part have more than {_MAX_HEADERS} bytes", code="invalid_form")

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_content(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if not options.get(b"name"):
            raise InvalidRequest("a part of the form has no name", code="invalid_form")
        name = options[b"name"].decode("utf-8", "replace")
        encoded = _encoded_filename(disposition) if b"*" in disposition else None
        if encoded is not None or b"filename" in options:
            self._begin_file_part(name, encoded or options.get(b"filename", b"").decode("utf-8", "replace"))
        else:
            self._begin_field(name)

    def _end(self) -> None:
        self.is_complete = True

    @abstractmethod
    def _begin_part(self) -> None:
        """A part begins; nothing is known of it yet."""

    @abstractmethod
    def _begin_file_part(self, name: str, filename: str) -> None:
        """The content of a file begins, in the field ``name``."""

    @abstractmethod
    def _begin_field(self, name: str) -> None:
        """The content of a field that is no file begins."""

    @abstractmethod
    def _add_content(self, data: bytes, start: int, end: int) -> None:
        """More of the content of the part."""

    @abstractmethod
    def _end_part(self) -> None:
        """The part is whole."""


def _not_a_form(exc: FormParserError) -> InvalidRequest:
    return InvalidRequest(f"the body is not a form of the type {FORM}: {exc}", code="invalid_form")


def _encoded_filename(disposition: bytes) -> str | None:
    """The file's name in ``filename*``; ``None`` without one."""
    found = _ENCODED.search(_QUOTED.sub(b'""', disposition))
    return None if found is None else unquote_to_bytes(found[2]).decode(found[1].decode(), "replace")
