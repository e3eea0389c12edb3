"""A form (RFC 7578) written anew as it comes, for an upstream: parts in their order, behind a boundary of our own.

Whatever a file holds, it cannot end its part or begin another: nobody knows the boundary but us. So the upstream reads
the fields that we have read, and no second ``model`` can hide behind one that was checked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sage.errors import InvalidRequest
from sage.middleware.routers.http.forms.parts import FORM, FormParts

MODEL = "model"
_FALLBACKS = ("models", "models[]")
"""Names of models that may answer instead: the gateway's own field, which no upstream is sent."""
_EARLY = frozenset({MODEL, *_FALLBACKS})
_MAX_FIELDS = 256
_MAX_FILES = 64
_MAX_VALUES = 2**20
"""Bytes of all fields that are no files, together."""
_ESCAPES = {ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}
"""In names, as the WHATWG's HTML standard has it."""
Check = Callable[[Mapping[str, Any]], None]


class FormField(NamedTuple):
    """A field that is no file."""

    name: str
    value: str


class FormTranscoder(FormParts):
    """Reads one form and writes it anew. Raises :class:`InvalidRequest` for what is no such form.

    Fields are gathered in :attr:`fields` until :meth:`freeze`; files, and fields after that, go to :attr:`written`.
    """

    def __init__(self, content_type: str) -> None:
        self.fields: list[FormField] = []
        self.written = bytearray()
        self.files: list[str] = []
        """The fields of the files that have begun."""
        self.check: Check | None = None
        """Is given each field that comes after :meth:`freeze`."""
        boundary = secrets.token_hex(16)
        self.content_type = f"{FORM}; boundary={boundary}"
        self._boundary = boundary.encode()
        self._is_frozen = False
        self._names: set[str] = set()
        self._value_bytes = 0
        self._field: str | None = None
        """The name of the field that is being read; ``None`` means a file."""
        self._value = bytearray()
        super().__init__(content_type)

    def has(self, name: str) -> bool:
        """Whether the field ``name`` has come."""
        return name in self._names

    def freeze(self) -> None:
        """Its beginning is going to be sent: what comes from now on follows in its order."""
        self._is_frozen = True

    def head(self, model: str) -> bytes:
        """The fields that were gathered, for an upstream that calls the model ``model``."""
        return b"".join(
            self._part_head(name) + (model if name == MODEL else value).encode("utf-8", "surrogatepass") + b"\r\n"
            for name, value in self.fields
            if name not in _FALLBACKS
        )

    def body(self) -> dict[str, Any]:
        """The gathered fields as those of a JSON would be: ``NAME[]`` are a list, ``n`` is a number, ``stream`` true
        or false, all others are texts."""
        body: dict[str, Any] = {}
        for name, value in self.fields:
            if name.endswith("[]"):
                body.setdefault(name[:-2], []).append(value)
            else:
                body[name] = _typed(name, value)
        if isinstance(body.get("models"), str):
            body["models"] = [body["models"]]
        return body

    def _begin_part(self) -> None:
        self._value.clear()

    def _begin_file_part(self, name: str, filename: str) -> None:
        if name in _EARLY:
            raise InvalidRequest(f"the field '{name}' must be text, not a file", param=name)
        if len(self.files) >= _MAX_FILES:
            raise InvalidRequest(f"the form has more than {_MAX_FILES} files", code="invalid_form")
        self.files.append(name)
        self._field = None
        self.written += self._part_head(name, filename, self._headers.get(b"content-type", b""))

    def _begin_field(self, name: str) -> None:
        if name in self._names and not name.endswith("[]"):
            raise InvalidRequest(f"the field '{name[:64]}' is given twice", param=name[:64])
        if len(self._names) + len(self.fields) >= _MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {_MAX_FIELDS} fields", code="invalid_form")
        if self._is_frozen and name in _EARLY:
            raise InvalidRequest(f"the field '{name}' must come before the files, with 'model'", param=name)
        self._field = name

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.written += memoryview(data)[start:end]
            return
        self._value += data[start:end]
        self._value_bytes += end - start
        if self._value_bytes > _MAX_VALUES:
            raise InvalidRequest(
                f"the fields of the form that are no files have more than {_MAX_VALUES} bytes", param=self._field[:64]
            )

    def _end_part(self) -> None:
        name = self._field
        if name is None:
            self.written += b"\r\n"
            return
        self._names.add(name)
        value = self._value.decode("utf-8", "replace")
        if not self._is_frozen:
            self.fields.append(FormField(name, value))
            return
        if self.check is not None:
            self.check({name.removesuffix("[]"): _typed(name, value)})
        self.written += self._part_head(name) + value.encode() + b"\r\n"

    def _end(self) -> None:
        super()._end()
        self.written += b"--" + self._boundary + b"--\r\n"

    def _part_head(self, name: str, filename: str | None = None, content_type: bytes = b"") -> bytes:
        head = f'Content-Disposition: form-data; name="{name.translate(_ESCAPES)}"'
        if filename is not None:
            head += f'; filename="{filename.translate(_ESCAPES)}"'
        kind = b"Content-Type: " + content_type + b"\r\n" if content_type else b""
        return b"--" + self._boundary + b"\r\n" + head.encode() + b"\r\n" + kind + b"\r\n"


def _typed(name: str, value: str) -> Any:
    """The value of a field as JSON has it, where something depends on it."""
    if name == "stream":
        if value.lower() not in ("true", "false"):
            raise InvalidRequest("'stream' must be true or false", param="stream")
        return value.lower() == "true"
    if name == "n":
        try:
            return int(value)
        except ValueError:
            raise InvalidRequest("'n' must be a whole number", param="n") from None
    return value
