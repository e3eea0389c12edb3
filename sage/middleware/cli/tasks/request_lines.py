"""The requests of ``sage tasks generate``: the lines of a file, checked before anything is sent."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sage.errors import InvalidRequest, SageError

_PART = 2**16


class RequestLines:
    """Requests as JSON lines, each with the ``defaults`` that it does not set, and after a ``system`` message."""

    def __init__(self, source: Iterable[str], is_text: bool, defaults: Mapping[str, Any], system: str | None) -> None:
        """``is_text``: each line is a prompt."""
        self._source = source
        self._is_text = is_text
        self._defaults = defaults
        self._system = system

    @classmethod
    def read(cls, file: Path, defaults: Mapping[str, Any], system: str | None = None) -> RequestLines:
        """The requests of ``file``, every line of which is checked. Raises :class:`InvalidRequest` for one that is no
        request."""
        is_stdin = str(file) == "-"
        source = sys.stdin.read().split("\n") if is_stdin else _FileLines(file)
        lines = cls(source, file.suffix.lower() == ".txt", defaults, system)
        try:
            if sum(1 for _ in lines.requests()) == 0:
                raise InvalidRequest(f"{file} has no lines: each line is a request")
        except UnicodeDecodeError as exc:
            raise InvalidRequest(f"{file} is not UTF-8: {exc.reason}") from exc
        except OSError as exc:
            raise SageError(f"{file}: {exc.strerror or exc}") from exc
        return lines

    def parts(self) -> Iterator[bytes]:
        """The lines that are sent, some of them at a time."""
        part = b""
        for request in self.requests():
            part += json.dumps(request).encode() + b"\n"
            if len(part) >= _PART:
                yield part
                part = b""
        if part:
            yield part

    def requests(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self._source, 1):
            if text := line.strip():
                yield self._request(number, text)

    def _request(self, number: int, text: str) -> dict[str, Any]:
        try:
            value = text if self._is_text else json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(
                f'line {number} is not JSON: {exc}; a line is a request such as {{"prompt": "…"}}, or a prompt in '
                "quotation marks (a file of plain prompts has a name that ends in .txt)"
            ) from None
        request = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(request, dict) or not ("prompt" in request or "messages" in request):
            raise InvalidRequest(f"line {number} has neither 'prompt' nor 'messages'")
        request = {**self._defaults, **request}
        if "model" not in request:
            raise InvalidRequest(f"line {number} names no model; give one for all lines: --model MODEL")
        if self._system is not None and "prompt" in request:
            prompt = request.pop("prompt")
            request["messages"] = [{"role": "system", "content": self._system}, {"role": "user", "content": prompt}]
        return request


class _FileLines:
    """The lines of a file, which can be read again."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __iter__(self) -> Iterator[str]:
        with self._file.open(encoding="utf-8-sig") as lines:
            yield from lines
