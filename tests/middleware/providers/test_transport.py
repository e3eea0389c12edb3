"""The seam of the transport, through the fake that is shipped for tests and examples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from raw_server import Connections, Serve
from transports import make_transport, on_each_transport

from sage.errors import UpstreamFailed
from sage.middleware.app.main import make_gateway
from sage.middleware.auth.principal import LOCAL
from sage.middleware.providers.aiohttp_client.transport import AiohttpTransport
from sage.middleware.providers.base import ModelCall, Operation, UpstreamRequest
from sage.middleware.providers.transport import FakeResponse, FakeTransport, Transport, sending
from sage.middleware.settings.providers import Timeouts
from sage.middleware.settings.settings import Settings, TransportKind


def settings(tmp_path: Path) -> Settings:
    providers = {"east": {"kind": "openai", "base_url": "http://east.example/v1", "api_key": "k"}}
    return Settings.model_validate({"data_dir": tmp_path, "llm": {"providers": providers}})


def call(stream: bool = False) -> ModelCall:
    body = {"model": "east/m", "messages": [{"role": "user", "content": "x"}]}
    return ModelCall(Operation.CHAT, body, "east/m", stream=stream)


def test_a_gateway_over_the_fake_answers_from_memory(tmp_path: Path) -> None:
    answer = {"model": "m", "choices": [{"index": 0, "message": {"content": "from memory"}}]}
    response = FakeResponse(chunks=[json.dumps(answer).encode()])
    transport = FakeTransport(lambda request: response)

    async def ask() -> bytes:
        gateway = make_gateway(settings(tmp_path), transport=transport)
        async with gateway.call(LOCAL, call()) as answering:
            return answering.body

    seen = json.loads(asyncio.run(ask()))
    assert seen == answer | {"model": "east/m"}
    assert response.closed
    assert transport.sent[0].url == "http://east.example/v1/chat/completions"
    assert transport.sent[0].headers["authorization"] == "Bearer k"
    assert json.loads(transport.sent[0].body)["model"] == "m"


def test_the_fake_breaks_where_it_is_told_to(tmp_path: Path) -> None:
    piece = b'data: {"model": "m", "choices": [{"delta": {"content": "one"}}]}\n\n'
    response = FakeResponse(chunks=[piece, UpstreamFailed("cut")])

    async def ask() -> None:
        gateway = make_gateway(settings(tmp_path), transport=FakeTransport(lambda request: response))
        async with gateway.call(LOCAL, call(stream=True)) as answering:
            assert b"one" in answering.body
            await answering.more()

    with pytest.raises(UpstreamFailed, match="cut"):
        asyncio.run(ask())
    assert response.closed


@asynccontextmanager
async def asked_of(kind: TransportKind, serve: Serve) -> AsyncIterator[tuple[str, Transport]]:
    """A server that ``serve`` plays, as its address and a transport; both end with every connection closed."""
    connections, transport = Connections(serve), make_transport(kind)
    server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x", transport
    finally:
        await transport.close()
        server.close()
        await connections.end()


@on_each_transport
def test_a_request_survives_a_kept_connection_that_is_closed_as_it_is_used(transport_kind: TransportKind) -> None:
    """Servers close connections that were idle for too long, perhaps in the moment in which one is used again."""

    async def run(retry: bool, good: int = 1) -> tuple[list[bytes], int]:
        asked = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            for turn in range(good + 1):  # answers the first on a connection, and ends it on the second without a word
                try:
                    await reader.readuntil(b"{}")
                except asyncio.IncompleteReadError:
                    break
                asked += 1
                if turn < good:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    await writer.drain()
            writer.close()

        answers = []
        async with asked_of(transport_kind, serve) as (url, transport):
            request = UpstreamRequest("engine", "POST", url, {}, b"{}", Timeouts(), retry_on_broken_connection=retry)
            for _ in range(2):
                async with sending(transport, request) as response:
                    answers.append(await response.read())
        return answers, asked

    assert asyncio.run(run(True)) == ([b"{}", b"{}"], 3)
    assert asyncio.run(run(False)) == ([b"{}", b"{}"], 3)
    with pytest.raises(UpstreamFailed, match="did not answer"):
        asyncio.run(run(False, good=0))  # a fresh connection that breaks is the server's failure


@on_each_transport
@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"])
def test_a_request_whose_answer_has_begun_is_never_sent_again(transport_kind: TransportKind, begun: bytes) -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        for data in (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", begun):
            await reader.readuntil(b"{}")
            asked += 1
            writer.write(data)
            await writer.drain()
        writer.close()

    async def run() -> None:
        async with asked_of(transport_kind, serve) as (url, transport):
            for _ in range(2):
                async with sending(transport, UpstreamRequest("up", "POST", url, {}, b"{}", Timeouts())) as response:
                    await response.read()

    with pytest.raises(UpstreamFailed):
        asyncio.run(run())
    assert asked == 2


@on_each_transport
def test_sessions_of_ended_engines_are_closed_while_new_ones_open(
    tmp_path: Path, transport_kind: TransportKind
) -> None:
    """Of four engines all have ended; two new ones are asked at the same time."""

    async def run() -> list[bytes]:
        servers, transport = [], make_transport(transport_kind)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
            writer.close()

        async def ask(name: str) -> bytes:
            path = str(tmp_path / name)
            request = UpstreamRequest("e", "POST", "http://engine/x", {}, b"{}", Timeouts(), socket=path)
            async with sending(transport, request) as response:
                return await response.read()

        async def start(name: str) -> None:
            servers.append(await asyncio.start_unix_server(serve, tmp_path / name))

        try:
            for name in ("a", "b", "c", "d"):
                await start(name)
            await asyncio.gather(*map(ask, ("a", "b", "c", "d")))
            for name in ("a", "b", "c", "d"):
                (tmp_path / name).unlink()
            await start("e")
            await start("f")
            return await asyncio.gather(ask("e"), ask("f"))
        finally:
            await transport.close()
            for server in servers:
                server.close()

    assert asyncio.run(run()) == [b"{}", b"{}"]


def test_limits_of_models_that_come_and_go_are_forgotten() -> None:
    transport = AiohttpTransport()
    for _ in range(3000):
        transport._timeout(UpstreamRequest("up", "POST", "http://x/", {}, b"", Timeouts()))
    assert len(transport._timeouts) <= 1000
