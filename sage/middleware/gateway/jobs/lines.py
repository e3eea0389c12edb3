"""The lines of a job: read piece by piece, all checked before the job is accepted, faults named by their line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import orjson

from sage.errors import InvalidRequest, SageError
from sage.middleware.gateway.json_object import parse_object
from sage.middleware.settings.queue import JobLimits
from sage.surrogates import replace_halves

MOST_FAULTS = 20
"""Lines that an error names, and behind which nothing is read unless a reader says otherwise."""
_LONGEST_REASON = 300
_BOM = b"\xef\xbb\xbf"
_AWAY = 16 * 2**10
"""Bytes; a larger piece is checked on a thread."""


@dataclass(frozen=True, slots=True)
class LineLimits:
    """What the lines of one job may be. ``max_line`` is in bytes, as is ``max_job``: that of all items together, which
    hold what the lines share once each."""

    max_lines: int = 50_000
    max_line: int = 8 * 2**20
    max_job: int = 512 * 2**20

    @classmethod
    def of(cls, limits: JobLimits) -> Self:
        """Those of the configuration: all items together may take what one file may."""
        return cls(limits.max_lines, limits.max_line, limits.max_file)


@dataclass(frozen=True, slots=True)
class LineFault:
    """What is wrong with one line; the first one is 1."""

    line: int
    message: str
    param: str | None = None
    code: str = "invalid_request"

    @classmethod
    def of(cls, line: int, error: SageError) -> LineFault:
        return cls(line, error.message, error.param, error.code)


class InvalidLines(InvalidRequest):
    """Lines of a job are not valid; ``faults`` are the first of them (400)."""

    default_code = "invalid_lines"

    def __init__(self, faults: list[LineFault], unit: str = "line") -> None:
        """``unit`` is what the caller knows a line as: ``line``, or a field such as ``requests``."""
        shown = faults[:MOST_FAULTS]
        named = "; ".join(f"{_place(unit, fault.line)}: {_cut(fault.message)}" for fault in shown)
        more = ", and perhaps others behind them" if len(faults) >= MOST_FAULTS else ""
        super().__init__(
            f"nothing was accepted, since these are not valid{more}: {named}", param=None if unit == "line" else unit
        )
        self.faults = faults

    def envelope(self) -> dict[str, Any]:
        """The usual one, with ``lines`` for programs."""
        envelope = super().envelope()
        lines = [{"line": f.line, "message": f.message, "param": f.param, "code": f.code} for f in self.faults]
        return {"error": {**envelope["error"], "lines": lines}}


class LineSink(Protocol):
    """Where the items of a job go."""

    def write(self, line: bytes, /) -> object: ...


class LineReader:
    """Takes the bytes of JSON lines and writes the items of a job to ``sink``, one JSON object a line.

    ``check`` makes the items of a line, mostly one, from its object and its number, and raises a :class:`SageError`
    for what is not valid. Empty lines are passed over, as is a byte order mark. Not for two threads at a time.
    """

    def __init__(
        self,
        check: Callable[[dict[str, Any], int], Sequence[dict[str, Any]]],
        sink: LineSink,
        limits: LineLimits,
        unit: str = "line",
        most_faults: int = MOST_FAULTS,
    ) -> None:
        """After ``most_faults`` faults nothing more is read."""
        self.line = 0
        """The number of the line that is being checked."""
        self.items = 0
        self._bytes = 0
        self._check = check
        self._sink = sink
        self._limits = limits
        self._unit = unit
        self._most_faults = most_faults
        self._faults: list[LineFault] = []
        self._rest = bytearray()
        self._is_too_long = False
        self._has_begun = False

    def feed(self, piece: bytes) -> None:
        """Checks the lines that end in ``piece``. Raises :class:`InvalidLines` when there are too many faults."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._keep(piece[start:end])
            self._end_line()
            start = end + 1
        self._keep(piece[start:])

    def _keep(self, part: bytes) -> None:
        if not self._is_too_long:
            self._rest += part
            if len(self._rest) > self._limits.max_line + 4:  # perhaps with a line feed and a byte order mark
                self._is_too_long = True
                self._rest.clear()

    def _end_line(self) -> None:
        line, self._rest = bytes(self._rest), bytearray()
        if not self._has_begun:
            self._has_begun, line = True, line.removeprefix(_BOM)
        self.line += 1
        if self._is_too_long or len(line) > self._limits.max_line:
            self._is_too_long = False
            most = f"{self._limits.max_line} bytes (queue.limits.max_line)"
            self.fault(InvalidRequest(f"the line is longer than {most}", code="line_too_long"))
        elif line := line.strip():
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        try:
            value = _parse(line)
        except InvalidRequest as exc:
            reason = exc.message.replace("the body", "the line", 1)
            self.fault(InvalidRequest(reason, param=exc.param, code=exc.code))
            return
        self.take(value)

    def take(self, value: dict[str, Any]) -> None:
        """Checks one line that is parsed already, whose number :attr:`line` is."""
        try:
            items = self._check(value, self.line)
        except SageError as exc:
            self.fault(exc)
            return
        for item in items:
            self._write(orjson.dumps(item) + b"\n")

    def _write(self, item: bytes) -> None:
        self.items += 1
        self._bytes += len(item)
        limits, where = self._limits, _place(self._unit, self.line)
        if self.items > limits.max_lines:
            most = f"a job may have {limits.max_lines} lines (queue.limits.max_lines)"
            raise InvalidRequest(f"{where}: {most}; send the rest as another job", code="too_many_lines")
        if self._bytes > limits.max_job:
            most = f"the lines of a job, each with what they share, may have {limits.max_job} bytes"
            raise InvalidRequest(f"{where}: {most}; share less, or send the rest as another job", code="job_too_large")
        self._sink.write(item)

    def fault(self, error: SageError, line: int | None = None) -> None:
        """Counts ``error`` as a fault of ``line``; ``None`` means the present one."""
        self._faults.append(LineFault.of(self.line if line is None else line, error))
        if len(self._faults) >= self._most_faults:
            self.raise_faults()

    def raise_faults(self) -> None:
        """Raises :class:`InvalidLines` if there are any."""
        if self._faults:
            raise InvalidLines(sorted(self._faults, key=lambda fault: fault.line), self._unit)

    def end(self) -> None:
        """Checks the last line. Raises :class:`InvalidLines`, and :class:`InvalidRequest` when there is no item."""
        if self._rest or self._is_too_long:
            self._end_line()
        self.raise_faults()
        if not self.items:
            raise InvalidRequest("there is no line in it; a job needs one JSON object a line at least", code="no_lines")

    async def read(self, pieces: AsyncIterable[bytes]) -> None:
        """Takes all ``pieces`` and ends; the checks of large ones run on a thread."""
        async for piece in pieces:
            if len(piece) + len(self._rest) > _AWAY:
                await asyncio.to_thread(self.feed, piece)
            else:
                self.feed(piece)
        await asyncio.to_thread(self.end)

    def take_all(self, values: Iterable[Any]) -> None:
        """Takes values that are parsed already, the first of which is 0, and ends."""
        self.line = -1
        for value in values:
            self.line += 1
            if isinstance(value, dict):
                self.take(value)
            else:
                self.fault(InvalidRequest("must be an object"))
        self.end()


def _parse(line: bytes) -> dict[str, Any]:
    """``line`` as an object; halves of surrogate pairs are replaced."""
    try:
        return parse_object(line)
    except InvalidRequest:
        mended, _ = replace_halves(line)
        if mended == line:
            raise
    return parse_object(mended)


def _place(unit: str, number: int) -> str:
    return f"line {number}" if unit == "line" else f"{unit}[{number}]"


def _cut(message: str) -> str:
    return message if len(message) <= _LONGEST_REASON else f"{message[:_LONGEST_REASON]}…"
