"""The head of an answer, of which the parser has found the end: its bounds, its framing and its headers.

The parser (llhttp, strict) takes nothing but lines that end with CRLF, names that are tokens, and no folded lines. So
the first empty line is the end of a head, and headers are read only where somebody asks for them.
"""

from __future__ import annotations

from multidict import CIMultiDict

from sage.middleware.providers.http.answer import AnswerFault
from sage.middleware.providers.http.errors import MAX_HEAD, MAX_HEAD_LINE, MAX_HEADERS

# A head with more headers than there may be has more bytes than this: `a:` and CRLF for each.
_SURELY_FEW = 4 * MAX_HEADERS


def final_head(data: bytes) -> bytes:
    """The head in ``data`` without its empty line, and without interim answers (1xx) and empty lines before it."""
    if data.startswith(b"HTTP/") and data[9:10] != b"1":
        return data[: data.find(b"\r\n\r\n")]
    start = 0
    while True:
        while data.startswith((b"\r", b"\n"), start):
            start += 1
        end = data.find(b"\r\n\r\n", start)
        if data[start + 9 : start + 10] != b"1" or end < 0:
            return data[start:end]
        start = end + 4


def is_unusual(head: bytes) -> bool:
    """Whether more has to be known of ``head``: it may have a fault, or ``Content-Encoding`` or ``Transfer-Encoding``.

    Most heads of whole answers have none of these, and are not looked at any further.
    """
    return len(head) > _SURELY_FEW or not head.startswith(b"HTTP/1.") or head.lower().find(b"-encoding:") >= 0


def is_chunked_only(head: bytes) -> bool:
    """Whether the only encoding or coding in ``head`` is ``Transfer-Encoding: chunked``, as in that of most streams."""
    lower = head.lower()
    return lower.count(b"-encoding:") == 1 and (lower + b"\r\n").count(b"\r\ntransfer-encoding: chunked\r\n") == 1


def fault_of_head(head: bytes) -> AnswerFault | None:
    """What makes ``head`` unacceptable though it can be parsed. llhttp takes RTSP and HTTP/2.0 as well."""
    if not head.startswith(b"HTTP/1."):
        return AnswerFault.NONSENSE
    size = len(head)
    if size > _SURELY_FEW:
        if head.count(b"\r\n") > MAX_HEADERS:
            return AnswerFault.MANY_HEADERS
        if size > MAX_HEAD_LINE and max(map(len, head.split(b"\r\n"))) > MAX_HEAD_LINE:
            return AnswerFault.LONG_LINE
        if size > MAX_HEAD:
            return AnswerFault.LONG_HEAD
    return None


def parse_headers(head: bytes) -> CIMultiDict[str]:
    """The headers in ``head``. What is not UTF-8 in a value is kept as surrogates."""
    headers = CIMultiDict[str]()
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        headers.add(name.decode("latin-1"), value.strip(b" \t").decode("utf-8", "surrogateescape"))
    return headers


def values_of(headers: CIMultiDict[str], name: str) -> str | None:
    """All values of ``name`` as one list; ``None`` if it has none."""
    values = headers.getall(name, None)
    return None if values is None else ", ".join(values)


def ends_with_connection(head: bytes) -> bool:
    """Whether nothing but the end of the connection ends the body (RFC 9112, 6.3)."""
    headers = parse_headers(head)
    return "content-length" not in headers and "transfer-encoding" not in headers
