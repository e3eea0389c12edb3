"""The head of a connection's last request, by which the next one is known without being parsed.

Clients send the same lines with each request of a connection, but for the length of the body. To compare them costs a
tenth of what it costs to parse them, and what an application has found in them (:class:`Fields`) holds for all. A
client that opens many connections sends them on each: the first request of one is compared with what came last from
the same host.
"""

from __future__ import annotations

from sage.middleware.routers.http.asgi import FIELDS, Fields, Scope

LONGEST = 64 * 1024
"""Bytes of a body that such a request has at most."""
OF_ONE_REQUEST = ("state", "sage.exchange")
"""What the scope of a request has that no other one's has."""
_OF_A_LISTENER = ("server", "scheme")
_LENGTH = b"content-length"
_LENGTH_LINE = b"\r\n" + _LENGTH + b":"
_MOST_DIGITS = len(str(LONGEST))


class RepeatedHead:
    """A head that the parser has taken, with a ``Content-Length`` and nothing else that decides where the body ends."""

    __slots__ = ("_after", "_before", "_digits", "_scope", "length")

    def __init__(self, head: bytes, scope: Scope) -> None:
        """``head``: its bytes with the empty line. ``scope``: what the parser has made of it."""
        start = head.lower().index(_LENGTH_LINE) + len(_LENGTH_LINE)
        digits = head[start : head.index(b"\r", start)].strip()
        start = head.index(digits, start)
        self._before, self._digits, self._after = head[:start], digits, head[start + len(digits) :]
        self.length = int(digits)
        """Of the body of the request that was known last."""
        self._scope = {**scope, **dict.fromkeys(OF_ONE_REQUEST)}

    def body_of(self, data: bytes) -> bytes | None:
        """The body of the request that ``data`` begins, as far as it is there, if the request has this head and nothing
        comes after it; else ``None``."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start)
        if not data.startswith(after, end):
            return None
        digits = data[start:end]
        if digits != self._digits and not self._take_length(digits):
            return None
        body = data[end + len(after) :]
        return body if len(body) <= self.length else None

    def of_connection(self, data: bytes, scope: Scope) -> RepeatedHead | None:
        """This head for another connection, whose requests have ``scope``, of which ``data`` is the first that came;
        ``None`` if that begins otherwise, or if more differs between the two connections than the client's port."""
        own = self._scope
        if not data.startswith(self._before):
            return None
        host = scope["client"] and scope["client"][0]
        if host != (own["client"] and own["client"][0]) or any(own[name] != scope[name] for name in _OF_A_LISTENER):
            return None
        head = RepeatedHead.__new__(RepeatedHead)
        head._before, head._digits, head._after, head.length = self._before, self._digits, self._after, self.length
        head._scope = own.copy()
        head._scope["client"] = scope["client"]
        return head

    def scope(self) -> Scope:
        """The scope of a request that has this head, without :data:`OF_ONE_REQUEST`."""
        return self._scope.copy()

    def _take_length(self, digits: bytes) -> bool:
        """From now on its body has another length; ``False`` if that is none of a small body."""
        if not digits.isdigit() or len(digits) > _MOST_DIGITS or not 0 < int(digits) <= LONGEST:
            return False
        self._digits, self.length = digits, int(digits)
        scope = self._scope = self._scope.copy()  # that of the last request stays as it is
        fields: Fields = scope[FIELDS]
        scope[FIELDS] = fields.with_field(_LENGTH, digits)
        scope["headers"] = [(name, digits if name == _LENGTH else value) for name, value in scope["headers"]]
        return True


def repeatable(data: bytes, scope: Scope) -> RepeatedHead | None:
    """The head of the one request that begins in ``data``, of which the parser has made ``scope``.

    ``None`` if it has no small body with a ``Content-Length``, if something comes after that, or if it has other lines
    than one for each header.
    """
    length = int(scope[FIELDS].get(_LENGTH, b"0"))
    head = data[: data.find(b"\r\n\r\n") + 4]
    if not 0 < length <= LONGEST or len(data) - len(head) > length:
        return None
    lines = len(scope["headers"]) + 2
    return RepeatedHead(head, scope) if head.count(b"\r\n") == head.count(b"\n") == lines else None
