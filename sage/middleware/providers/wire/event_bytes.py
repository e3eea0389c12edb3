"""What the bytes of server-sent events tell without being parsed: whether they can go on to a client as they are.
And the bounds of every stream, whatever its format, with the errors for one that passes them or is cut off.

A client's SDK reads events of one line of data each, which is JSON by the letter; all else has to be parsed and written
anew.

Source of the format: the HTML standard, *Server-sent events*.
"""

from __future__ import annotations

import re

from sage.errors import UpstreamFailed

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DONE = b"data: [DONE]\n\n"
DONE_DATA = b"[DONE]"
MAX_EVENT = 16 * 2**20
MAX_EMPTY = 2**20
"""Bytes of blank lines, comments and events without data that may come before the next event with data."""
_PLAIN = re.compile(rb"(?:data: ?\{[^\n]*\}[ \t]*\n\n)*")
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""A half of a surrogate pair, or both halves of one."""
_HALVES = re.compile(
    rb"(?:\\[^u]|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u(?![dD][89a-fA-F]))|(\\u)", re.S
)
"""Escapes in a text; the group is there for a half without its other one."""
_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry|error)?:")
_OBJECTS = re.compile(rb"\}\s*\n\s*\{")


def count_plain(events: bytes, is_last: bool) -> int:
    """How many events there are if each is one line of JSON as it goes on to the client; 0 if one is not.

    ``is_last`` tells that ``[DONE]`` comes after them; it is counted.
    """
    chunks = events[: -len(DONE)] if is_last else events
    lines = chunks.count(b"\n")
    is_plain = chunks.startswith(b"data: {") and chunks.endswith(b"}\n\n")
    if not (is_plain and lines == 2 * chunks.count(b"}\n\ndata: {") + 2) and not _PLAIN.fullmatch(chunks):
        return 0
    return (lines >> 1) + is_last


def hides_text(events: bytes, *, numbers: bool) -> bool:
    """Whether a reader may find less in the events than there is: halves of characters, bytes that are no UTF-8, and,
    if there are ``numbers``, such as JSON does not have."""
    if b"\\" in events and _HALF.search(events) and any(match[1] for match in _HALVES.finditer(events)):
        return True
    if numbers and (b"NaN" in events or b"Infinity" in events):
        return True
    return not (events.isascii() or is_utf8(events))


def too_long() -> UpstreamFailed:
    """The error for an event that does not end."""
    return UpstreamFailed(f"the upstream sent a stream event of more than {MAX_EVENT} bytes")


def too_empty() -> UpstreamFailed:
    """The error for a stream that goes on and says nothing."""
    return UpstreamFailed(f"the upstream sent {MAX_EMPTY} bytes without an event", code="upstream_nonsense")


def cut_off() -> UpstreamFailed:
    """The error for a stream that ends before its answer does."""
    return UpstreamFailed("the upstream ended its stream before the answer was whole", code="upstream_broken")


def event_data(event: bytes) -> bytes:
    """The data of one event; empty if it has none."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line for line in event.split(b"\n") if line.startswith((b"data:", b"error:"))]
    return b"\n".join(line.partition(b":")[2] for line in lines).strip()


def is_stream(body: bytes) -> bool:
    """Whether an answer is a stream: server-sent events, or JSON objects on lines of their own."""
    return _EVENTS.match(body) is not None or _OBJECTS.search(body) is not None


def is_utf8(data: bytes) -> bool:
    """Whether ``data`` is text in UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
