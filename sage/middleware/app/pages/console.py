"""``/console``: the gateway's pages for people, static files that use the public API alone and need no credential."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

PATH = "/console"
_TEXTS = (".css", ".html", ".js", ".json", ".svg")
_DIRECTORY = Path(__file__).parents[2] / "console"
# Everything comes from the gateway and goes to it; nothing is inline, and no page may frame this one.
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        b"form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # asked for again, and answered with 304 while it is the same
)


def add_console(app: FastAPI) -> None:
    """Adds the console's page and files to ``app``."""

    async def page(request: Request) -> Response:
        return FileResponse(_DIRECTORY / "index.html", headers={k.decode(): v.decode() for k, v in _HEADERS})

    app.router.routes += [
        Route(PATH, page, name="console"),
        Mount(PATH, _Files(_DIRECTORY), name="console_files"),
    ]


class _Files(StaticFiles):
    """The console's files, with the headers that keep scripts of others out; compressed for who takes that."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory, html=True)
        self._compressed: dict[tuple[str, int], bytes] = {}

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        plain = super().file_response(full_path, stat_result, scope, status_code)
        path = os.fspath(full_path)
        if not isinstance(plain, FileResponse) or not path.endswith(_TEXTS):
            return plain
        plain.headers["vary"] = "accept-encoding"
        if "gzip" not in Headers(scope=scope).get("accept-encoding", ""):
            return plain
        content = self._compressed.get(key := (path, stat_result.st_mtime_ns))
        if content is None:
            content = self._compressed[key] = gzip.compress(Path(path).read_bytes(), mtime=0)
        kept = {name: plain.headers[name] for name in ("etag", "last-modified", "vary")}
        return Response(content, status_code, {**kept, "content-encoding": "gzip"}, plain.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await super().__call__(scope, receive, with_headers)
