"""Upstreams in trouble: refusals and failures by the hundred, black holes, half-open sockets, cut and slow streams.

Whatever happens, upstreams get at most a fifth more requests than the gateway, answers keep their deadlines within
200 ms, breakers let one probe through at a time, and no text comes twice.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import requests
from upstream import Received, Script, Upstream, chat_chunk, openai_like, reply, stream

pytestmark = pytest.mark.slow  # hundreds of requests

FULL = bool(os.environ.get("SAGE_TEST_FULL"))
MANY = 1000 if FULL else 100
SOME = 200 if FULL else 16
CLIENTS = 8
NEVER = 1_000_000_000
SLACK = 0.2
FEW = 3
"""Further attempts that a model may make whatever its load."""


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


@pytest.fixture
def field(gateway: Callable) -> Callable:
    """``field(url, …)``: a gateway whose model ``bench`` has equal deployments at the addresses."""

    def start(
        *urls: str, failures: int = NEVER, pause: float = 60.0, queue: float = 0.2, retries: int = 2, **timeouts: float
    ):
        common = {"kind": "openai", "timeouts": timeouts, "retries": retries}
        providers = {f"up{number}": {**common, "base_url": url} for number, url in enumerate(urls)}
        models = {"bench": {"deployments": [{"provider": name, "model": "m"} for name in providers]}}
        routing = {"breaker_failures": failures, "breaker_pause": pause, "queue_timeout": queue}
        return gateway(llm={"providers": providers, "models": models, "routing": routing})

    return start


@dataclass(frozen=True)
class Asked:
    """One request of a storm, and how long it took, in seconds."""

    number: int
    status: int
    headers: dict[str, str]
    content: bytes
    took: float


class Lag(threading.Thread):
    """How late a thread wakes on this machine now, at worst: what no gateway can be blamed for."""

    def __init__(self) -> None:
        super().__init__(name="lag")
        self.worst = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            begun = time.monotonic()
            self._ended.wait(0.01)
            self.worst = max(self.worst, time.monotonic() - begun - 0.01)

    def stop(self) -> None:
        self._ended.set()
        self.join()


def storm(running, count: int, clients: int = CLIENTS, **fields) -> tuple[list[Asked], float]:
    """``count`` requests from ``clients`` at a time; their answers, and how late this machine was meanwhile."""

    def ask(number: int) -> Asked:
        messages = [{"role": "user", "content": f"say {number}"}]
        begun = time.monotonic()
        answer = running.chat(messages=messages, **fields)
        content = answer.content
        return Asked(number, answer.status_code, dict(answer.headers), content, time.monotonic() - begun)

    lag = Lag()
    lag.start()
    try:
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(ask, range(count))), lag.worst
    finally:
        lag.stop()


def check_took(answers: list[Asked], limit: float, lag: float) -> None:
    """Half of them came within 200 ms of ``limit``; on a busy machine each of the rest may come a little later."""
    took = sorted(asked.took for asked in answers)
    assert took[len(took) // 2] <= limit + SLACK + 4 * lag, (took, lag)
    assert took[-1] <= limit + (SLACK if FULL else 5 * SLACK) + 10 * lag, (took, lag)


def load(found: list[Upstream]) -> int:
    return sum(len(up.requests) for up in found)


def check_load(found: list[Upstream], count: int) -> None:
    assert count <= load(found) <= 1.2 * count + FEW


def texts(content: bytes) -> list[str]:
    """The pieces of text in a chat stream."""
    pieces = []
    for part in content.decode().split("\n\n"):
        if part.startswith("data: {"):
            for choice in json.loads(part[6:]).get("choices", ()):
                pieces.append(choice["delta"].get("content") or "")
    return [piece for piece in pieces if piece]


# Failures and refusals


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_storm_of_failures_adds_at_most_a_fifth(ups: Callable, field: Callable, status: int) -> None:
    found = [ups() for _ in range(3)]
    for up in found:
        up.reply(status=status)
    answers, _ = storm(field(*(up.url for up in found)), MANY)
    assert {asked.status for asked in answers} == {{500: 502}.get(status, status)}
    check_load(found, MANY)


def test_a_storm_opens_the_breakers_and_ends_at_the_gateway(ups: Callable, field: Callable) -> None:
    found = [ups() for _ in range(3)]
    for up in found:
        up.reply(status=500)
    answers, _ = storm(field(*(up.url for up in found), failures=5), MANY)
    assert {asked.status for asked in answers} == {502, 503}
    assert load(found) <= 3 * (5 + CLIENTS)
    assert all(int(asked.headers["retry-after"]) >= 1 for asked in answers if asked.status == 503)


def test_when_half_fails_further_attempts_help_within_their_budget(ups: Callable, field: Callable) -> None:
    found = [ups() for _ in range(3)]
    dice = random.Random(7)

    def handler(request: Received) -> Script:
        return reply(status=500) if dice.random() < 0.5 else openai_like(request)

    for up in found:
        up.handler = handler
    answers, _ = storm(field(*(up.url for up in found)), MANY)
    check_load(found, MANY)
    good = [asked for asked in answers if asked.status == 200]
    assert len(good) > 0.35 * MANY
    assert any(asked.headers["x-sage-attempts"] != "1" for asked in good)
    for asked in good:
        assert json.loads(asked.content)["choices"][0]["message"]["content"] == f"say {asked.number}"


@pytest.mark.parametrize("told", [None, "2", "60"])
def test_a_storm_of_429_is_not_answered_by_more_requests(ups: Callable, field: Callable, told: str | None) -> None:
    found = [ups() for _ in range(2)]
    for up in found:
        up.reply(status=429, headers={} if told is None else {"retry-after": told})
    begun = time.monotonic()
    answers, _ = storm(field(*(up.url for up in found)), MANY)
    took = time.monotonic() - begun
    assert {asked.status for asked in answers} == {429}
    assert all(1 <= int(asked.headers["retry-after"]) <= 60 for asked in answers)
    # Each is asked at most once in the time that it named, but for those requests that were on their way already.
    assert load(found) <= 2 * CLIENTS * (1 + took // float(told or 1))
    for up in found:
        first = up.requests[0].at
        assert [at for request in up.requests if 1.2 < (at := request.at - first) < float(told or 1) - 0.05] == []


def test_requests_that_can_wait_for_the_time_named_are_answered(ups: Callable, field: Callable) -> None:
    up = ups()
    up.reply(status=429, headers={"retry-after": "1"}, times=1)
    running = field(up.url, queue=20.0)
    assert running.chat().status_code == 429
    answers, _ = storm(running, SOME)
    assert {asked.status for asked in answers} == {200}
    assert len(up.requests) == 1 + SOME
    assert min(request.at for request in up.requests[1:]) >= up.requests[0].at + 1.0


# Deadlines


def check_deadline(answers: list[Asked], limit: float, lag: float, code: str) -> None:
    for asked in answers:
        assert asked.status == 504
        assert json.loads(asked.content)["error"]["code"] == code
        assert limit - 0.05 <= asked.took
    check_took(answers, limit, lag)


@contextmanager
def silent_listener() -> Iterator[str]:
    """The kernel takes connections, nobody reads from them."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@contextmanager
def full_listener() -> Iterator[str]:
    """Its queue of connections is full, so that a further one is neither taken nor refused."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            peer = stack.enter_context(socket.socket())
            peer.setblocking(False)
            peer.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.mark.parametrize(
    ("limits", "limit", "code", "streamed"),
    [
        ({"first_byte": 0.5}, 0.5, "read_timeout", True),
        ({"total": 0.5}, 0.5, "total_timeout", False),
        ({"total": 0.5}, 0.5, "total_timeout", True),
        ({"total": 0.7, "first_byte": 0.6}, 0.7, "total_timeout", True),
        ({"total": 0.7, "first_byte": 0.1}, 0.7, "total_timeout", False),
    ],
)
def test_black_holes(ups: Callable, field: Callable, limits: dict, limit: float, code: str, streamed: bool) -> None:
    up = ups()
    up.hang() if len(limits) == 1 else up.use(Script(((0.15, HEAD),), end="hang"))
    answers, lag = storm(field(up.url, **limits), SOME, stream=streamed)
    check_deadline(answers, limit, lag, code)
    assert len(up.wait_requests(SOME)) == SOME


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def test_black_holes_with_others_to_ask_cost_one_deadline_and_a_fifth(ups: Callable, field: Callable) -> None:
    found = [ups() for _ in range(3)]
    for up in found:
        up.hang()
    answers, lag = storm(field(*(up.url for up in found), total=0.8, first_byte=0.3), SOME)
    assert {asked.status for asked in answers} == {504}
    check_took(answers, 0.8, lag)
    assert SOME <= load(found) <= 1.2 * SOME + FEW


def test_sockets_that_nobody_reads(field: Callable) -> None:
    with silent_listener() as url:
        answers, lag = storm(field(url, first_byte=0.4), SOME, stream=True)
        check_deadline(answers, 0.4, lag, "read_timeout")


@pytest.mark.each_transport
def test_sockets_that_take_no_connection(field: Callable) -> None:
    with full_listener() as url:
        answers, lag = storm(field(url, connect=0.4), SOME)
        check_deadline(answers, 0.4, lag, "connect_timeout")


def test_connections_that_die_without_a_word_after_the_head(ups: Callable, field: Callable) -> None:
    up = ups()
    up.use(Script(((0.0, HEAD),), end="hang"))
    answers, lag = storm(field(up.url, first_byte=0.4), SOME, stream=True)
    check_deadline(answers, 0.4, lag, "read_timeout")


def test_streams_that_stop_in_the_middle(ups: Callable, field: Callable) -> None:
    up = ups()
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    answers, lag = storm(field(up.url, between_chunks=0.4), SOME, stream=True)
    for asked in answers:
        assert asked.status == 200
        assert texts(asked.content.replace(b'{"error"', b'{"choices":[],"error"')) == ["one"]
        assert b'"code":"read_timeout"' in asked.content
        assert b"[DONE]" not in asked.content
        assert asked.took >= 0.35
    check_took(answers, 0.4, lag)


@pytest.mark.each_transport
def test_streams_without_an_end_are_cut_at_their_deadline(ups: Callable, field: Callable) -> None:
    up = ups()
    up.stream([chat_chunk("x")] * 400, delay=0.02)
    answers, lag = storm(field(up.url, total=1.2), CLIENTS, stream=True)
    for asked in answers:
        assert asked.status == 200
        assert b'"code":"total_timeout"' in asked.content
        assert asked.took >= 1.15
    check_took(answers, 1.2, lag)


def test_slow_first_bytes_go_to_another_place_while_the_budget_lasts(ups: Callable, field: Callable) -> None:
    slow, quick = ups(), ups()
    slow.stream([chat_chunk("slow"), chat_chunk(None, "stop")], first_byte_delay=1.0)
    running = field(slow.url, quick.url, first_byte=0.3)
    answers, lag = storm(running, SOME, stream=True)
    assert {asked.status for asked in answers} <= {200, 504}
    check_load([slow, quick], SOME)
    for asked in answers:
        if asked.status == 200:
            assert texts(asked.content) == ["say ", str(asked.number)]
    check_took(answers, 0.3 + 0.1 + 0.3, lag)  # two attempts, and the pause before the second
    assert any(asked.headers.get("x-sage-attempts") == "2" for asked in answers)


# No text twice


@pytest.mark.each_transport
@pytest.mark.parametrize("cut", ["close", "reset", "clean"])
def test_cut_streams_are_told_and_never_begun_again(ups: Callable, field: Callable, cut: str) -> None:
    found = [ups(), ups()]
    pieces = [chat_chunk("one "), chat_chunk("two "), chat_chunk("three"), chat_chunk(None, "stop")]
    for up in found:
        up.stream(pieces, cut_after=2, delay=0.005, reset=cut == "reset", clean=cut == "clean")
    answers, _ = storm(field(*(up.url for up in found)), MANY, stream=True)
    assert load(found) == MANY
    for asked in answers:
        assert asked.status == 200
        content = asked.content.replace(b'{"error"', b'{"choices":[],"error"')
        assert texts(content) in (["one ", "two "], ["one "]) if cut == "reset" else texts(content) == ["one ", "two "]
        assert b'"type":"upstream_error"' in asked.content
        assert b"[DONE]" not in asked.content


def test_streams_that_break_at_random_are_whole_once_or_cut_once(ups: Callable, field: Callable) -> None:
    found = [ups() for _ in range(3)]
    dice = random.Random(11)

    def handler(request: Received) -> Script:
        number = request.body["messages"][-1]["content"].split()[1]
        events = [chat_chunk(f"{number}:{part} ") for part in range(4)] + [chat_chunk(None, "stop")]
        match dice.randrange(5):
            case 0:
                return Script(end="close")
            case 1:
                return reply(status=500)
            case 2:
                return stream(events, cut_after=dice.randrange(4), delay=0.002)
            case _:
                return stream(events, delay=0.002)

    for up in found:
        up.handler = handler
    answers, _ = storm(field(*(up.url for up in found)), MANY, stream=True)
    check_load(found, MANY)
    whole = 0
    for asked in answers:
        if asked.status != 200:
            continue
        said = "".join(texts(asked.content.replace(b'{"error"', b'{"choices":[],"error"')))
        wanted = "".join(f"{asked.number}:{part} " for part in range(4))
        assert wanted.startswith(said)
        done = asked.content.endswith(b"data: [DONE]\n\n")
        assert done == (said == wanted and b'"error"' not in asked.content)
        whole += done
    assert whole > 0.25 * MANY


# Breakers


def test_one_probe_at_a_time_whatever_the_load(ups: Callable, field: Callable) -> None:
    up = ups()
    pause = 0.2
    up.reply(status=500, delay=0.05)
    running = field(up.url, failures=5, pause=pause)
    begun = time.monotonic()
    ended = begun + (6.0 if FULL else 2.0)

    def hammer(_: int) -> set[int]:
        seen = set()
        with requests.Session() as session:
            while time.monotonic() < ended:
                body = {"model": "bench", "messages": [{"role": "user", "content": "x"}]}
                answer = session.post(f"{running.url}/v1/chat/completions", json=body, headers=running.headers())
                seen.add(answer.status_code)
                time.sleep(0.005)
        return seen

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert set().union(*pool.map(hammer, range(CLIENTS))) == {502, 503}
    took, probes, due = time.monotonic() - begun, 0, 0.0
    while (due := due + pause * min(2**probes, 12)) < took:
        probes += 1
    # Those that were on their way when it opened end as they may; after that, one at a time.
    assert 5 + 2 <= load([up]) <= 5 + CLIENTS - 1 + probes


def test_a_deployment_that_comes_back_is_found_again(ups: Callable, field: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply(status=500, times=5)
    up.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    running = field(up.url, failures=5, pause=0.2, retries=0)
    for _ in range(5):
        assert running.chat().status_code == 502
    with ThreadPoolExecutor(30) as pool:
        deadline = time.monotonic() + 10
        probes: list = []
        while len(up.requests) < 6:  # asks until the half-open moment has come
            assert time.monotonic() < deadline
            probes += [pool.submit(running.chat) for _ in range(10)]
            time.sleep(0.05)
        others = [pool.submit(running.chat) for _ in range(20)]
        assert {other.result().status_code for other in others} == {503}
        assert len(up.requests) == 6
        gate.set()
        assert sorted(probe.result().status_code for probe in probes)[:2] == [200, 503]
    answers, _ = storm(running, SOME)
    assert {asked.status for asked in answers} == {200}
