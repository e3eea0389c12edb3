"""Forms with one file (RFC 7578), read piece by piece: small fields stay in memory, the file goes on as it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sage.errors import InvalidRequest

FORM = "multipart/form-data"
_MAX_FIELDS = 32
_MAX_VALUE = 4096  # bytes of a field that is no file
_MAX_HEADERS = 8192  # bytes of a part's headers


class FileSink(Protocol):
    """Where the bytes of the file go."""

    def write(self, data: memoryview) -> None:
        """Takes the next bytes."""


class FormReader:
    """Reads one form. ``file_field`` is the field that is a file, ``begin_file`` makes its sink.

    Its methods raise :class:`InvalidRequest` for what is no such form, and what the sink raises.
    """

    def __init__(self, content_type: str, file_field: str, begin_file: Callable[[], FileSink]) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """The name that the client gives its file, as it is; ``None`` until the file has begun."""
        self._file_field = file_field
        self._begin_file = begin_file
        self._sink: FileSink | None = None
        self._header = bytearray()
        self._header_value = bytearray()
        self._header_bytes = 0
        self._disposition = b""
        self._field: str | None = None
        self._value = bytearray()
        self._is_complete = False
        self._parser = self._make_parser(content_type)

    def _make_parser(self, content_type: str) -> MultipartParser:
        media_type, options = parse_options_header(content_type)
        if media_type != FORM.encode() or not options.get(b"boundary"):
            raise InvalidRequest(f"the body must be a form: 'Content-Type: {FORM}; boundary=…'", code="content_type")
        callbacks = {
            "on_part_begin": self._begin_part,
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

    def finish(self) -> None:
        """The body is over. Raises :class:`InvalidRequest` when the form is not whole, or has no file."""
        if not self._is_complete:
            raise InvalidRequest("the form ends before its last boundary", code="invalid_form")
        if self.filename is None:
            raise InvalidRequest(f"the form has no file in its field '{self._file_field}'", param=self._file_field)

    def _begin_part(self) -> None:
        self._disposition, self._field, self._sink = b"", None, None
        self._header_bytes = 0
        self._value.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._count_header(end - start)

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._count_header(end - start)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADERS:
            raise InvalidRequest(f"the headers of a part have more than {_MAX_HEADERS} bytes", code="invalid_form")

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header.clear()
        self._header_value.clear()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise InvalidRequest("a part of the form has no name", code="invalid_form")
        name = options[b"name"].decode("utf-8", "replace")
        if b"filename" in options:
            self._begin_file_part(name, options[b"filename"].decode("utf-8", "replace"))
        elif name == self._file_field:
            raise InvalidRequest(f"the field '{name}' must be a file: its part needs a 'filename'", param=name)
        elif name in self.fields:
            raise InvalidRequest(f"the field '{name[:64]}' is given twice", param=name[:64])
        elif len(self.fields) >= _MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {_MAX_FIELDS} fields", code="invalid_form")
        else:
            self._field = name

    def _begin_file_part(self, name: str, filename: str) -> None:
        if name != self._file_field:
            raise InvalidRequest(
                f"the field '{name[:64]}' must be no file; the file goes into '{self._file_field}'", param=name[:64]
            )
        if self.filename is not None:
            raise InvalidRequest("the form has several files; send one file with each request", param=name)
        self.filename = filename
        self._sink = self._begin_file()

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._sink is not None:
            self._sink.write(memoryview(data)[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_VALUE:
            name = (self._field or "")[:64]
            raise InvalidRequest(f"the field '{name}' has more than {_MAX_VALUE} bytes", param=name)

    def _end_part(self) -> None:
        if self._field is not None:
            self.fields[self._field] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._is_complete = True


def _not_a_form(exc: FormParserError) -> InvalidRequest:
    return InvalidRequest(f"the body is not a form of the type {FORM}: {exc}", code="invalid_form")
