"""Forms with one file (RFC 7578), read piece by piece: small fields stay in memory, the file goes on as it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sage.errors import InvalidRequest
from sage.middleware.routers.http.forms.parts import FormParts

_MAX_FIELDS = 32
_MAX_VALUE = 4096  # bytes of a field that is no file


class FileSink(Protocol):
    """Where the bytes of the file go."""

    def write(self, data: memoryview) -> None:
        """Takes the next bytes."""


class FormReader(FormParts):
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
        self._field: str | None = None
        self._value = bytearray()
        super().__init__(content_type)

    def finish(self) -> None:
        """The body is over. Raises :class:`InvalidRequest` when the form is not whole, or has no file."""
        if not self.is_complete:
            raise InvalidRequest("the form ends before its last boundary", code="invalid_form")
        if self.filename is None:
            raise InvalidRequest(f"the form has no file in its field '{self._file_field}'", param=self._file_field)

    def _begin_part(self) -> None:
        self._field, self._sink = None, None
        self._value.clear()

    def _begin_field(self, name: str) -> None:
        if name == self._file_field:
            raise InvalidRequest(f"the field '{name}' must be a file: its part needs a 'filename'", param=name)
        if name in self.fields:
            raise InvalidRequest(f"the field '{name[:64]}' is given twice", param=name[:64])
        if len(self.fields) >= _MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {_MAX_FIELDS} fields", code="invalid_form")
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
