"""Redis' wire (https://redis.io/docs/latest/develop/reference/protocol-spec, RESP2), as far as limits need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias


class RedisError(Exception):
    """An error that the server has answered with."""


Reply: TypeAlias = "int | bytes | list[Reply] | RedisError | None"
Part = bytes | str | int


class _Incomplete(Exception):
    pass


def encode(parts: Sequence[Part]) -> bytes:
    """A command."""
    return b"*%d\r\n%b" % (len(parts), b"".join(map(encode_part, parts)))


def encode_part(part: Part) -> bytes:
    """A part of a command."""
    data = part if isinstance(part, bytes) else b"%d" % part if isinstance(part, int) else part.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


class ReplyReader:
    """Makes replies of the bytes of a connection."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that ``data`` completes. Raises :class:`ValueError` for what is no reply."""
        data = self._rest + data if self._rest else data
        replies, at = [], 0
        try:
            while at < len(data):
                reply, at = _parse(data, at)
                replies.append(reply)
        except _Incomplete:
            pass
        self._rest = data[at:]
        return replies


def _parse(data: bytes, at: int) -> tuple[Reply, int]:
    """The reply that begins at ``at``, and where the next one begins."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _Incomplete
    kind, line, after = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b":":
        return int(line), after
    if kind == b"+":
        return line, after
    if kind == b"-":
        return RedisError(line.decode("utf-8", "replace")), after
    if kind == b"$":
        return _bulk(data, int(line), after)
    if kind == b"*":
        items: list[Reply] = []
        for _ in range(int(line)):
            item, after = _parse(data, after)
            items.append(item)
        return items, after
    raise ValueError("what answers is no Redis server")


def _bulk(data: bytes, size: int, at: int) -> tuple[Reply, int]:
    if size < 0:
        return None, at
    if len(data) < at + size + 2:
        raise _Incomplete
    return data[at : at + size], at + size + 2
