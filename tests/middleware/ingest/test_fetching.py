"""Documents from URLs: what the server says they are, and servers that lead elsewhere, send too much or never end."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import socket
from collections.abc import Iterator

import pytest
from page_server import PageServer, bomb, page, redirect

from sage.addresses import AllowedHosts
from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.fetching import FetchedDocument, FetchLimits, fetch

HTML = b"<html><body><p>Grapes are shipped on Tuesdays.</p></body></html>"
CHINESE = "葡萄在星期二发货。".encode("gb18030")
LIMITS = FetchLimits(size=100_000, seconds=20)
PAGES = {
    "/page": page(HTML),
    "/packed": page(gzip.compress(HTML), Content_Encoding="gzip"),
    "/two-packed": page(gzip.compress(HTML) + b"trailing", Content_Encoding="gzip"),
    "/notes": page(b"# Notes", "text/markdown; charset=utf-8"),
    "/untyped": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + HTML,
    "/stream": page(HTML, "application/octet-stream"),
    "/source": page(HTML, "text/plain"),
    "/plain.md": page(b"# Notes", "text/plain"),
    "/lines": page(b'{"text": "a"}\n', "application/x-ndjson"),
    "/chinese": page(CHINESE, "text/plain; charset=GB2312"),
    "/mislabelled": page("café 猫".encode(), "text/html; charset=euc-kr"),
    "/strange": page(HTML, "text/html; charset=unicode_escape"),
    "/redirect": redirect("http://169.254.169.254/latest/meta-data"),
    "/moved": redirect("/page", 301),
    "/large": page(b"x" * 100_001),
    "/bomb": bomb(50 * 2**20),
    "/cut": page(HTML, Content_Length="5000"),
    "/cut-packed": page(gzip.compress(HTML)[:-9], Content_Encoding="gzip"),
    "/not-packed": page(HTML, Content_Encoding="gzip"),
    "/brotli": page(HTML, Content_Encoding="br"),
    "/empty": page(b""),
    "/denied": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "/partial": b"HTTP/1.1 206 Partial\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
    "/nonsense": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "/many-heads": b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 200_000 + b"\r\n",
}


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with PageServer(PAGES) as running:
        yield running


def get(server: PageServer, path: str, limits: FetchLimits = LIMITS) -> tuple[FetchedDocument, bytes]:
    file = io.BytesIO()
    allowed = AllowedHosts([server.host], "queue.ingest.url_hosts")
    fetched = asyncio.run(fetch(server.url(path), allowed, file, limits))
    return fetched, file.getvalue()


def test_a_page_comes_with_what_the_server_says_it_is(server: PageServer) -> None:
    assert get(server, "/page") == (FetchedDocument(len(HTML), FileKind.HTML, None), HTML)
    assert get(server, "/packed") == (FetchedDocument(len(HTML), FileKind.HTML, None), HTML)
    assert get(server, "/two-packed")[1] == HTML
    assert get(server, "/notes")[0].kind is FileKind.MARKDOWN
    assert get(server, "/lines")[0].kind is FileKind.JSONL
    assert get(server, "/untyped")[0].kind is get(server, "/stream")[0].kind is FileKind.HTML
    assert get(server, "/plain.md")[0].kind is get(server, "/source")[0].kind is None
    assert get(server, "/empty")[0] == FetchedDocument(0, FileKind.HTML, None)


def test_the_declared_encoding_counts_where_the_bytes_fit(server: PageServer) -> None:
    assert get(server, "/chinese")[0].encoding == "gb18030"
    assert get(server, "/mislabelled")[0].encoding is None
    assert get(server, "/strange")[0].encoding is None


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/redirect", "302: redirects are not followed"),
        ("/moved", "301: redirects are not followed"),
        ("/missing", "answered with 404"),
        ("/denied", "answered with 403"),
        ("/partial", "answered with 206"),
        ("/large", "more than 100000 bytes"),
        ("/bomb", "more than 100000 bytes"),
        ("/cut", "broke off"),
        ("/cut-packed", "broke off"),
        ("/not-packed", "not what it is said to be packed as"),
        ("/brotli", "packed as 'br'"),
        ("/nonsense", "not HTTP"),
        ("/many-heads", "not HTTP"),
    ],
)
def test_an_answer_that_is_no_document_is_refused_with_its_cause(server: PageServer, path: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason) as refused:
        get(server, path)
    assert "169.254" not in str(refused.value)


def test_an_answer_that_does_not_come_costs_its_time_only(server: PageServer) -> None:
    with pytest.raises(Unreadable, match=r"not there after 0\.3 s"):
        get(server, "/never", FetchLimits(seconds=0.3))


def test_nobody_is_asked_when_the_host_is_not_listed(server: PageServer) -> None:
    before = server.asked.total()
    for url in (server.url("/page").replace("127.0.0.1", "localhost"), "http://0x7f000001/", "http://169.254.169.254/"):
        with pytest.raises(Unreadable, match="not fetched"):
            asyncio.run(fetch(url, AllowedHosts([server.host, "*"], "s"), io.BytesIO(), LIMITS))
    assert server.asked.total() == before


def test_a_dead_link_says_so_without_an_address(server: PageServer) -> None:
    with PageServer({}) as gone:
        host = gone.host
    with pytest.raises(Unreadable, match="cannot be connected to"):
        asyncio.run(fetch(f"http://{host}/", AllowedHosts([host], "s"), io.BytesIO(), LIMITS))


def test_a_name_without_an_address_and_a_full_disk_are_told_apart(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    allowed = AllowedHosts([server.host, "nowhere.example"], "s")
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(fetch(server.url("/page"), allowed, Full(), LIMITS))

    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreadable, match="its host has no address"):
        asyncio.run(fetch("http://nowhere.example/", allowed, io.BytesIO(), LIMITS))


def test_proxies_and_secrets_of_the_environment_do_not_go_along(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", "/dev/null")
    get(server, "/page")
    head = server.heads[-1].lower()
    assert f"host: {server.host}\r\n" in head
    assert "authorization" not in head
    assert "cookie" not in head
