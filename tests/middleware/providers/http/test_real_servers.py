"""Both clients against real servers: nginx, uvicorn, hypercorn, llama.cpp, and one that speaks no HTTP.

The clients run in uvloop, as in the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from real_servers import hypercorn_server, nginx_server, uvicorn_server
from tiny_gguf import write_llama
from transports import make_transport, on_each_transport
from valkey_server import valkey

from sage.errors import SageError
from sage.middleware.engines.process import Engine
from sage.middleware.providers.base import Endpoint, EngineSpec, UpstreamRequest, UpstreamResponse
from sage.middleware.providers.transport import Transport, sending
from sage.middleware.settings.providers import Timeouts

pytestmark = pytest.mark.slow  # processes, and megabytes

LIMITS = Timeouts(connect=5, first_byte=30, between_chunks=30, total=60)
LARGE = random.Random(1).randbytes(6_000_000)
SERVERS = ("nginx", "nginx socket", "uvicorn", "hypercorn")
SHORT = 0.03
"""Seconds after which an impatient server closes an idle connection."""


class CountingLoop(uvloop.Loop):
    """The gateway's loop; it counts the connections that are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.opened += 1
        return await super().create_connection(*args, **kwargs)

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.opened += 1
        return await super().create_unix_connection(*args, **kwargs)


@dataclass(frozen=True)
class Server:
    url: str
    socket: str | None = None

    def request(self, path: str, body: bytes = b"{}", **fields: Any) -> UpstreamRequest:
        return UpstreamRequest("real", "POST", self.url + path, {}, body, LIMITS, socket=self.socket, **fields)


def run(kind: str, work: Callable[[Transport, CountingLoop], Coroutine[Any, Any, Any]]) -> Any:
    """What ``work`` returns; nothing may be left to the loop's exception handler."""
    faults: list[dict[str, Any]] = []

    async def scenario() -> Any:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        loop.set_exception_handler(lambda _, context: faults.append(context))
        transport = make_transport(kind)  # type: ignore[arg-type]
        try:
            return await work(transport, loop)
        finally:
            await transport.close()

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        result = runner.run(scenario())
    assert faults == []
    return result


async def ask(transport: Transport, request: UpstreamRequest) -> bytes:
    async with sending(transport, request) as response:
        assert response.status == 200
        return await response.read()


async def code_of(transport: Transport, request: UpstreamRequest) -> str:
    """The code of the error that comes instead of an answer, or in the middle of one."""
    with pytest.raises(SageError) as caught:
        await ask(transport, request)
    return str(caught.value.code)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("nginx")
    (found / "files").mkdir()
    (found / "files" / "large.bin").write_bytes(LARGE)
    (found / "files" / "text.txt").write_bytes(b"a line of text\n" * 20_000)
    return found


async def break_off(response: UpstreamResponse) -> str:
    """The code of the error that ends the answer."""
    try:
        while await response.chunk():
            pass
    except SageError as exc:
        return str(exc.code)
    return "it ended well"


def started(name: str, directory: Path, keep_alive: float, stack: ExitStack) -> Server:
    if name == "uvicorn":
        return Server(f"http://127.0.0.1:{stack.enter_context(uvicorn_server(keep_alive))}")
    if name == "hypercorn":
        return Server(f"http://127.0.0.1:{stack.enter_context(hypercorn_server(keep_alive))}")
    nginx = stack.enter_context(nginx_server(directory, keep_alive))
    if name == "nginx socket":
        return Server("http://nginx", nginx.socket)
    return Server(f"http://127.0.0.1:{nginx.port}")


@pytest.fixture(scope="module")
def patient(directory: Path) -> Iterator[Callable[[str], Server]]:
    """``patient(name)``: that server, with connections that stay."""
    with ExitStack() as stack:
        running: dict[str, Server] = {}

        def find(name: str) -> Server:
            if name not in running:
                running[name] = started(name, directory, 60, stack)
                if name == "nginx":
                    running["nginx socket"] = Server("http://nginx", str(directory / "socket"))
            return running[name]

        yield find


@on_each_transport
@pytest.mark.parametrize("name", SERVERS)
def test_answers_are_whole_and_share_a_connection(
    transport_kind: str, name: str, patient: Callable[[str], Server]
) -> None:
    """Of a length and in chunks, empty, small and large, one after another."""
    patient("nginx")
    server = patient(name)

    async def work(transport: Transport, loop: CountingLoop) -> int:
        for size in (0, 1, 2, 1000, 65_536, 65_537, 300_000, len(LARGE), 3):
            for path in ("/echo", "/chunks"):
                body = LARGE[:size] or b""
                assert await ask(transport, server.request(path, body)) == body, (size, path)
        return loop.opened

    assert run(transport_kind, work) == 1


@on_each_transport
@pytest.mark.parametrize("name", SERVERS)
def test_many_at_once_get_their_own_answers(transport_kind: str, name: str, patient: Callable[[str], Server]) -> None:
    patient("nginx")
    server = patient(name)

    async def one(transport: Transport, number: int) -> bool:
        body = b"%d:" % number + LARGE[: number * 37]
        return await ask(transport, server.request(("/echo", "/chunks")[number % 2], body)) == body

    async def work(transport: Transport, loop: CountingLoop) -> int:
        for _ in range(3):
            assert all(await asyncio.gather(*(one(transport, number) for number in range(40))))
        return loop.opened

    assert run(transport_kind, work) <= 40


@on_each_transport
@pytest.mark.parametrize("name", SERVERS)
def test_each_step_of_a_stream_is_there_before_the_next(
    transport_kind: str, name: str, patient: Callable[[str], Server]
) -> None:
    """The server takes no step before it is told to, so what is kept back anywhere stops the test."""
    patient("nginx")
    server = patient(name)
    lines = [b"%d " % number + b"x" * (number * 100) + b"\n" for number in range(30)]
    stream = f"{name.replace(' ', '')}-{transport_kind}-{os.getpid()}"

    async def work(transport: Transport, _: CountingLoop) -> bytes:
        seen = b""
        async with sending(transport, server.request(f"/steps/{stream}", b"".join(lines))) as response:
            for number in range(len(lines)):
                expected = b"".join(lines[: number + 1])
                while len(seen) < len(expected):
                    seen += await response.chunk()
                assert seen == expected
                async with sending(transport, server.request(f"/go/{stream}")) as going:
                    assert going.status == 204
            assert await response.chunk() == b""
            assert await response.chunk() == b"", "the end stays the end"
        return seen

    assert run(transport_kind, work) == b"".join(lines)


@on_each_transport
@pytest.mark.parametrize("name", SERVERS)
def test_an_answer_that_breaks_off_is_never_whole(
    transport_kind: str, name: str, patient: Callable[[str], Server]
) -> None:
    patient("nginx")
    server = patient(name)

    async def work(transport: Transport, _: CountingLoop) -> list[str]:
        codes = []
        for path in ("/half", "/half/chunks"):
            for size in (10, 100_000):
                codes.append(await code_of(transport, server.request(path, LARGE[:size])))
                assert await ask(transport, server.request("/echo", b"next")) == b"next"
        return codes

    assert run(transport_kind, work) == ["upstream_broken"] * 4


@on_each_transport
@pytest.mark.parametrize("name", ["nginx", "uvicorn", "hypercorn"])
def test_idle_connections_that_are_closed_as_they_are_used_cost_no_request(
    transport_kind: str, name: str, directory: Path, tmp_path: Path
) -> None:
    """The server closes one about when the next request goes out, now before it and now after it."""

    async def work(transport: Transport, loop: CountingLoop) -> int:
        pauses = random.Random(2)
        for number in range(60):
            body = b"%d" % number
            assert await ask(transport, server.request("/echo", body)) == body
            await asyncio.sleep(SHORT + pauses.uniform(-0.006, 0.004))
        return loop.opened

    with ExitStack() as stack:
        server = started(name, tmp_path, SHORT, stack)
        assert 2 <= run(transport_kind, work) <= 60


@on_each_transport
def test_nginx_serves_files_packs_texts_and_closes_after_some_requests(
    transport_kind: str, patient: Callable[[str], Server]
) -> None:
    server = patient("nginx")

    async def work(transport: Transport, loop: CountingLoop) -> tuple[list[bytes], int]:
        for _ in range(2):
            found = await ask(transport, server.request("/files/large.bin", b""))
            assert hashlib.sha256(found).digest() == hashlib.sha256(LARGE).digest()
        headers = {"accept-encoding": "gzip"}
        request = server.request("/files/text.txt", b"")
        request.headers = headers
        async with sending(transport, request) as response:
            assert response.headers["content-encoding"] == "gzip"
            assert await response.read() == b"a line of text\n" * 20_000
        opened = loop.opened
        return [await ask(transport, server.request("/few/", b"")) for _ in range(7)], loop.opened - opened

    turns, opened = run(transport_kind, work)
    assert len(turns) == 7
    assert 2 <= opened <= 3
    assert max(int(turn) for turn in turns) <= 5  # of one connection, with the three before


@on_each_transport
def test_nginx_refuses_a_large_body_while_it_is_sent(transport_kind: str, patient: Callable[[str], Server]) -> None:
    """It answers 413 as soon as it has seen the head."""
    server = patient("nginx")

    async def work(transport: Transport, _: CountingLoop) -> list[int]:
        statuses = []
        for size in (2000, 200_000, len(LARGE), 2, 8 * len(LARGE)):
            async with sending(
                transport, server.request("/refused/", LARGE * 8 if size > len(LARGE) else LARGE[:size])
            ) as response:
                statuses.append(response.status)
                await response.read()
        return statuses

    assert run(transport_kind, work) == [413, 413, 413, 200, 413]


@on_each_transport
def test_a_server_that_is_killed_in_the_middle_of_an_answer(transport_kind: str, tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "large.bin").write_bytes(LARGE)

    async def work(transport: Transport, _: CountingLoop) -> str:
        async with sending(transport, server.request("/slow/large.bin", b"")) as response:
            assert await response.chunk()
            nginx.process.send_signal(signal.SIGKILL)
            nginx.process.wait(10)
            code = await break_off(response)
        assert await code_of(transport, server.request("/echo")) == "connect_failed"
        return code

    with nginx_server(tmp_path, 60) as nginx:
        server = Server(f"http://127.0.0.1:{nginx.port}")
        assert run(transport_kind, work) == "upstream_broken"


@on_each_transport
def test_a_redis_is_no_upstream(transport_kind: str) -> None:
    """It ends a connection on which it sees ``POST``, without a word."""

    async def work(transport: Transport, loop: CountingLoop) -> list[str]:
        codes = [await code_of(transport, server.request("/v1/chat/completions")) for _ in range(3)]
        request = server.request("/v1/models", b"", retry_on_broken_connection=True)
        request.method = "GET"
        codes.append(await code_of(transport, request))
        return [*codes, str(loop.opened)]

    with valkey() as running:
        server = Server(running.url.replace("redis://", "http://").removesuffix("/0"))
        *codes, opened = run(transport_kind, work)
    assert set(codes) <= {"upstream_broken", "upstream_nonsense"}
    assert 4 <= int(opened) <= (5 if transport_kind == "builtin" else 7)  # aiohttp repeats a GET by itself, too


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


@on_each_transport
def test_llama_cpp(transport_kind: str, model: Path) -> None:
    """Whole answers, streams, refusals, large bodies, and its sudden death, over its socket or port."""

    async def work(transport: Transport, loop: CountingLoop) -> None:
        options = {"SAGE_ENGINE_OPTIONS": json.dumps({"alias": "m", "path": str(model)})}
        engine = Engine(EngineSpec((sys.executable, "-m", "sage.middleware.providers.local.engine"), options), "m")
        endpoint = await engine.start()
        try:
            await talk(transport, loop, endpoint, engine.pids)
        finally:
            await engine.stop()

    run(transport_kind, work)


async def talk(transport: Transport, loop: CountingLoop, endpoint: Endpoint, pids: tuple[int, ...]) -> None:
    def chat(tokens: int, *, text: str = "hello", stream: bool = False) -> UpstreamRequest:
        fields = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": stream}
        body = json.dumps({"ignore_eos": True, **fields}).encode()
        url = f"{endpoint.base_url}/chat/completions"
        return UpstreamRequest("real", "POST", url, endpoint.headers, body, LIMITS, socket=endpoint.socket)

    opened = loop.opened  # its health was asked for
    for tokens in (1, 5, 9):
        answer = json.loads(await ask(transport, chat(tokens)))
        assert answer["usage"]["completion_tokens"] == tokens
    streamed = await ask(transport, chat(20, stream=True))
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert streamed.count(b"data: ") >= 20
    assert loop.opened - opened == 1, "it keeps its connections"
    async with sending(transport, chat(5, text="word " * 400_000)) as response:
        assert response.status >= 400
        assert b"error" in await response.read()
    assert json.loads(await ask(transport, chat(2)))["usage"]["completion_tokens"] == 2
    async with sending(transport, chat(1500, stream=True)) as response:
        assert (await response.chunk()).startswith(b"data: ")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert await break_off(response) == "upstream_broken"
