"""A server of pages, some of them hostile, by their path."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections import Counter
from collections.abc import Mapping

from raw_server import RawServer


def page(body: bytes, kind: str = "text/html", **headers: str) -> bytes:
    """A whole answer."""
    lines = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body


def redirect(target: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def bomb(size: int) -> bytes:
    """``size`` zeros, as gzip packs them."""
    return page(gzip.compress(bytes(size)), Content_Encoding="gzip")


class PageServer(RawServer):
    """``pages`` are whole answers by path; others are 404. ``/never`` is not answered, ``/held`` once ``gate`` is set.
    ``asked`` counts the paths, ``heads`` has the requests."""

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        super().__init__()
        self.pages = dict(pages)
        self.asked: Counter[str] = Counter()
        self.heads: list[str] = []
        self.gate = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        path = head.split(" ")[1]
        self.asked[path] += 1
        if path == "/never":
            await asyncio.Event().wait()
        while path == "/held" and not self.gate.is_set():
            await asyncio.sleep(0.02)
        writer.write(self.pages.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
        await writer.drain()
