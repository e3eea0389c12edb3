"""TLS towards upstreams: which certificates are taken, which name is asked for, and that bytes pass whole."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest
from certificates import Authority, Certificate
from client_process import Ask, ClientProcess, Got, body_of
from raw_server import Connections
from transports import TRANSPORTS, on_each_transport

pytestmark = pytest.mark.slow  # processes


class TlsServer:
    """Answers each POST with its own body, and notes the names that clients asked for."""

    def __init__(self, certificate: Certificate | None, host: str = "127.0.0.1", **versions: ssl.TLSVersion) -> None:
        self.asked_for: list[str | None] = []
        self.connections = 0
        self.protocols: list[str | None] = []
        self.port = 0
        self._host = host
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate.chain, certificate.key)
            self._context.set_alpn_protocols(["h2", "http/1.1"])
            self._context.sni_callback = lambda _, name, __: self.asked_for.append(name)
            for name, version in versions.items():
                setattr(self._context, name, version)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="tls server")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections = Connections(self._serve)
        server = await asyncio.start_server(connections.accept, self._host, 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        await connections.end()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        secure = writer.get_extra_info("ssl_object")
        self.protocols.append(secure.selected_alpn_protocol() if secure else None)
        if secure is None:  # as a server of plain HTTP does
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            return
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(size)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
            await writer.drain()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def clients(authority: Authority) -> Iterator[dict[str, ClientProcess]]:
    """One of each transport, which trusts the authority."""
    with ExitStack() as stack:
        yield {kind: stack.enter_context(ClientProcess(kind, SSL_CERT_FILE=str(authority.root))) for kind in TRANSPORTS}


@contextmanager
def servers(*opened: TlsServer) -> Iterator[None]:
    with ExitStack() as stack:
        for server in opened:
            stack.enter_context(server)
        yield


@on_each_transport
def test_a_certificate_is_taken_only_if_it_is_good(
    authority: Authority, clients: dict[str, ClientProcess], transport_kind: str, tmp_path: Path
) -> None:
    good = TlsServer(authority.sign("good", "localhost", "127.0.0.1"))
    expired = TlsServer(authority.sign("expired", "localhost", expired=True))
    other = TlsServer(authority.sign("other", "other.example"))
    itself = TlsServer(authority.sign("itself", "localhost", by_itself=True))
    foreign = TlsServer(Authority(tmp_path, "somebody").sign("foreign", "localhost"))
    named_only = TlsServer(authority.sign("named", "localhost"))
    every = (good, expired, other, itself, foreign, named_only)
    with servers(*every):
        urls = [f"https://localhost:{server.port}/x" for server in every[:5]]
        urls += [f"https://127.0.0.1:{server.port}/x" for server in (good, named_only)]
        found = clients[transport_kind].ask(*map(Ask, urls))
        with ClientProcess(transport_kind) as client:
            untrusting = client.ask(Ask(urls[0]))
    whole = Got(200, 2, hashlib.sha256(b"01").hexdigest())
    assert found[0] == found[5] == whole
    refused = [*found[1:5], found[6], *untrusting]
    assert [got.code for got in refused] == ["connect_failed"] * 6
    reasons = (
        "expired",
        "other.example' | Hostname mismatch",
        "self",
        "unable to get local issuer",
        "IP address mismatch",
    )
    for got, reason in zip(refused, (*reasons, "unable to get local issuer"), strict=True):
        assert "its certificate is not accepted" in got.message, got
        assert any(words in got.message for words in reason.split(" | ")), got
    assert [server.connections for server in every] == [2, 0, 0, 0, 0, 0]
    assert [server.asked_for for server in every[1:5]] == [["localhost"]] * 4
    assert good.asked_for == ["localhost", None, "localhost"], "an address is no name to ask for"
    assert named_only.asked_for == [None]
    assert set(good.protocols) <= {"http/1.1", None}, "no other protocol is spoken here"


@on_each_transport
def test_large_bodies_pass_whole_over_one_connection(
    authority: Authority, clients: dict[str, ClientProcess], transport_kind: str
) -> None:
    sizes = [0, 1, 16_384, 16_385, 1_000_000, 8_000_000, 2]
    with TlsServer(authority.sign("large", "localhost")) as server:
        found = clients[transport_kind].ask(*(Ask(f"https://localhost:{server.port}/x", size) for size in sizes))
    assert found == [Got(200, size, hashlib.sha256(body_of(size)).hexdigest()) for size in sizes]
    assert server.connections == 1


@on_each_transport
def test_versions_of_tls_and_what_is_none(
    authority: Authority, clients: dict[str, ClientProcess], transport_kind: str
) -> None:
    certificate = authority.sign("versions", "localhost", "::1", "127.0.0.1")
    v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    older, newer = TlsServer(certificate, maximum_version=v12), TlsServer(certificate, minimum_version=v13)
    plain, six = TlsServer(None), TlsServer(certificate, "::1")
    with servers(older, newer, plain, six):
        urls = [f"https://localhost:{server.port}/x" for server in (older, newer, plain)]
        urls += [f"https://[::1]:{six.port}/x", f"http://localhost:{older.port}/x"]
        found = clients[transport_kind].ask(*map(Ask, urls))
    assert [got.status for got in found] == [200, 200, 0, 200, 0]
    assert found[2].code == "connect_failed"
    assert found[4].code in ("upstream_broken", "upstream_nonsense")
    assert (newer.asked_for, six.asked_for) == (["localhost"], [None])
