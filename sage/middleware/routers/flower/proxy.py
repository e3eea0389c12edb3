"""Flower behind the gateway: its pages as they are, without the caller's credentials and without its own cookies."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from sage.errors import NotFound, SageError, Unavailable
from sage.middleware.gateway.flower_access import FlowerAccess, find_flower
from sage.middleware.providers.base import UpstreamRequest, UpstreamResponse
from sage.middleware.providers.transport import Transport
from sage.middleware.routers.http.asgi import Headers, Receive, Scope, Send, read_body
from sage.middleware.settings.flower import FlowerSettings
from sage.middleware.settings.providers import Timeouts

_TIMEOUTS = Timeouts(connect=2.0, first_byte=30.0, between_chunks=30.0, total=120.0)
_MOST_RUNNING = 64
"""Requests at one time: a page makes a dozen."""
_MAX_ANSWER = 64 * 2**20
_ASKED = frozenset(
    {b"accept", b"accept-language", b"content-type", b"if-none-match", b"if-modified-since", b"x-requested-with"}
)
"""All that Flower gets of a request's headers."""
_ANSWERED = ("content-type", "content-length", "content-disposition", "etag", "last-modified", "cache-control", "vary")
"""All that a browser gets of an answer's headers, but for a redirect's target. Flower's cookie is not among them: what
it protects is checked here."""
_MAX_PAGE = 2**20
"""Bytes of a page of Flower's; what is larger is passed on as it comes, and has no script in line."""
_OWN_SCRIPT = re.compile(rb"<script[^<>]*>(\s*var autorefresh = \w{1,5};?\s*)</script>")
"""The only script in line that a page of Flower's has. Others, which a task's name could bring, do not run."""


class FlowerUnavailable(Unavailable):
    """Flower does not run, or does not answer (503); with ``refused`` it does not know the gateway's password."""

    default_code = "flower_unavailable"

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message, retry_after=5.0)
        self.refused = refused


class FlowerProxy:
    """Passes requests on to Flower."""

    def __init__(self, transport: Transport, settings: FlowerSettings, data_dir: Path) -> None:
        self._transport = transport
        self._settings = settings
        self._data_dir = data_dir
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send, more: Callable[[], Headers]) -> None:
        """Answers a request that may see Flower. ``more`` makes headers that the answer has besides.

        Raises :class:`FlowerUnavailable`, before anything is sent.
        """
        if self._running >= _MOST_RUNNING:
            raise Unavailable("too many requests to Flower at this moment; try again in a second", retry_after=1.0)
        self._running += 1
        try:
            await self._pass_on(scope, receive, send, more)
        finally:
            self._running -= 1

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, more: Callable[[], Headers]) -> None:
        access = find_flower(self._settings, self._data_dir)
        if access is None:
            raise FlowerUnavailable("Flower does not run: start it with 'sage flower' on the gateway's configuration")
        request = _request(scope, await read_body(receive), access)
        try:
            answer = await self._transport.send(request)
        except SageError as exc:
            raise FlowerUnavailable(
                f"Flower does not answer at {access.url}: start it with 'sage flower' on the gateway's configuration"
            ) from exc
        try:
            if answer.status == 401:
                raise FlowerUnavailable(
                    "Flower refused the gateway's password (queue.flower.password): start both on one configuration",
                    refused=True,
                )
            await _send_on(answer, access, send, more())
        finally:
            answer.close()


def _request(scope: Scope, body: bytes, access: FlowerAccess) -> UpstreamRequest:
    # A path is written anew from what it means, so that Flower reads in it what was checked here.
    path: str = scope["path"]
    if any(segment in (".", "..") for segment in path.split("/")) or "\\" in path:
        raise NotFound(f"Flower has no page at '{path[:200]}'")
    url = access.url + quote(path, safe="/@:+,=~")
    if scope["query_string"]:
        url += "?" + quote(scope["query_string"].decode("latin-1"), safe="%/?:@!$&'()*+,;=~[]|")
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _ASKED}
    headers["host"] = urlsplit(access.url).netloc
    headers["authorization"] = access.authorization
    headers["accept-encoding"] = "identity"
    # A page may be asked for again when Flower closes a kept connection as it is used; what changes something may not.
    once = scope["method"] not in ("GET", "HEAD")
    return UpstreamRequest("flower", scope["method"], url, headers, body, _TIMEOUTS, once=once)


async def _send_on(answer: UpstreamResponse, access: FlowerAccess, send: Send, more: Headers) -> None:
    headers = [(name.encode(), _value(answer.headers[name])) for name in _ANSWERED if name in answer.headers]
    target = answer.headers.get("location", "").removeprefix(access.url)
    if target.startswith("/flower/"):
        headers.append((b"location", _value(target)))
    page = await answer.read() if _is_page(answer) else b""
    headers.append((b"content-security-policy", _policy(page)))
    await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, *more]})
    size = 0
    while chunk := (page if page and not size else await answer.chunk()):
        size += len(chunk)
        if size > _MAX_ANSWER:
            raise FlowerUnavailable(f"Flower's answer has more than {_MAX_ANSWER} bytes")
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_page(answer: UpstreamResponse) -> bool:
    length = answer.headers.get("content-length", "")
    is_html = answer.headers.get("content-type", "").startswith("text/html")
    return is_html and length.isdecimal() and int(length) <= _MAX_PAGE


def _policy(page: bytes) -> bytes:
    """What Flower's pages may load: what is Flower's own, and styles and pictures in line, as its library has them."""
    hashes = [b" 'sha256-%b'" % base64.b64encode(hashlib.sha256(text).digest()) for text in _OWN_SCRIPT.findall(page)]
    return (
        b"default-src 'none'; script-src 'self'%b; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ) % b"".join(hashes[:4])


def _value(text: str) -> bytes:
    """``text`` as a header's value: without what no header may hold."""
    return "".join(character for character in text if character.isprintable()).encode("latin-1", "ignore")
