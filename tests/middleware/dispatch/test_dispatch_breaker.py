"""A deployment that fails again and again is left alone, and one request at a time looks whether it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from departing import asking
from upstream import Received, Script, Upstream, chat_chunk, reply

from sage.errors import UpstreamFailed
from sage.middleware.dispatch.circuit_breaker import Breaker
from sage.middleware.settings.settings import Routing

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

PAUSE = 0.3


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


@pytest.fixture
def guarded(upstreams: Callable) -> Callable:
    """``guarded(up, …)``: a gateway whose breakers open after three failures in a row, for a short while."""

    def start(*found: Upstream, failures: int = 3, pause: float = PAUSE, provider: dict | None = None, **options):
        routing = {"breaker_failures": failures, "breaker_pause": pause}
        provider = {"retries": 0, **(provider or {})}  # one request, one failure
        return upstreams(*found, llm={"routing": routing}, provider=provider, **options)

    return start


def breaker(running) -> dict:
    return running.get("/models/bench").json()["deployments"][0]["breaker"]


def open_it(running, up: Upstream, status: int = 500) -> None:
    for _ in range(3):
        assert running.chat().status_code in (502, 503, 504)
    assert breaker(running)["state"] in ("open", "half_open")  # its pause may be over already


def wait_half_open(running) -> None:
    deadline = time.monotonic() + 10
    while breaker(running)["state"] != "half_open":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_failures_in_a_row_open_it_and_nobody_is_bothered(ups: Callable, guarded: Callable) -> None:
    up = ups()
    up.reply({"error": {"message": "out of memory"}}, status=500)
    running = guarded(up, pause=60)
    assert breaker(running) == {"state": "closed", "failures": 0, "opens_for": None, "last_failure": None}
    open_it(running, up)
    answer = running.chat()
    assert answer.status_code == 503
    assert 55 <= int(answer.headers["retry-after"]) <= 60
    assert "out of memory" in answer.json()["error"]["message"]
    assert len(up.requests) == 3
    shown = breaker(running)
    assert shown["failures"] == 3
    assert 55 < shown["opens_for"] <= 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "fail",
    [
        lambda up: up.reply(status=503),
        lambda up: up.hang(),
        lambda up: up.close_at_once(),
        lambda up: up.reply(body=b"<html>no</html>"),
        lambda up: up.raw(b"SSH-2.0-OpenSSH_9\r\n"),
    ],
)
def test_every_kind_of_failure_counts(ups: Callable, guarded: Callable, fail: Callable) -> None:
    up = ups()
    fail(up)
    running = guarded(up, provider={"timeouts": {"total": 0.3}}, pause=60)
    open_it(running, up)
    assert running.chat().status_code == 503
    assert len(up.requests) == 3


def test_a_port_where_nobody_listens_counts(ups: Callable, guarded: Callable) -> None:
    up = ups()
    up.url = "http://127.0.0.1:9/v1"
    running = guarded(up, pause=60)
    open_it(running, up)
    assert "cannot be reached" in running.chat().json()["error"]["message"]


def test_streams_that_are_cut_after_the_first_byte_count(ups: Callable, guarded: Callable) -> None:
    up = ups()
    up.stream([chat_chunk("one"), chat_chunk("two")], cut_after=1)
    running = guarded(up, pause=60)
    for _ in range(3):
        answer = running.chat(stream=True)
        assert answer.status_code == 200
        assert b"upstream_error" in answer.content
    assert running.chat(stream=True).status_code == 503
    assert len(up.requests) == 3


@pytest.mark.parametrize("status", [400, 404, 401])
def test_what_is_not_the_servers_failure_does_not_count(ups: Callable, guarded: Callable, status: int) -> None:
    up = ups()
    up.reply(status=status)
    running = guarded(up, pause=60)
    for _ in range(5):
        running.chat()
    assert len(up.requests) == 5
    assert breaker(running)["state"] == "closed"


def test_clients_that_leave_do_not_count(ups: Callable, guarded: Callable) -> None:
    up = ups()
    up.hang(times=4)
    running = guarded(up, pause=60)
    for index in range(4):
        with asking(running):
            up.wait_requests(index + 1)
        up.wait_closed(index=index)
    assert running.chat().status_code == 200


def test_a_success_ends_the_row(ups: Callable, guarded: Callable) -> None:
    up = ups()
    running = guarded(up, pause=60)
    for _ in range(3):
        up.reply(status=500, times=2)
        up.use(reply({"choices": [{"message": {}}]}), times=1)
        assert [running.chat().status_code for _ in range(3)] == [502, 502, 200]
    assert breaker(running)["failures"] == 0


@pytest.mark.slow
def test_exactly_one_request_probes(ups: Callable, guarded: Callable) -> None:
    up = ups()
    up.reply(status=500, times=3)
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate, times=1)
    running = guarded(up)
    open_it(running, up)
    wait_half_open(running)
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(running.chat) for _ in range(20)]
        refused = _first(answers, 19)
        assert {answer.status_code for answer in refused} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert len(up.requests) == 4
        gate.set()
        assert sorted(answer.result().status_code for answer in answers) == [200] + [503] * 19
    assert breaker(running)["state"] == "closed"
    assert running.chat().status_code == 200


def _first(futures: list, count: int) -> list:
    """The results of the first ``count`` that are done."""
    deadline = time.monotonic() + 20
    while len(done := [future for future in futures if future.done()]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [future.result() for future in done]


@pytest.mark.slow
def test_a_probe_that_fails_opens_it_again(ups: Callable, guarded: Callable) -> None:
    up = ups()
    up.reply(status=500)
    running = guarded(up, pause=1.0)
    open_it(running, up)
    wait_half_open(running)
    assert running.chat().status_code == 502
    assert running.chat().status_code == 503
    assert 0 < breaker(running)["opens_for"] <= 2.0
    assert len(up.requests) == 4


def test_each_probe_that_fails_doubles_the_pause_up_to_twelve_times() -> None:
    failure, routing = UpstreamFailed("no"), Routing(breaker_failures=2, breaker_pause=5.0)
    tried, now = Breaker(), 100.0
    tried.fail(now, failure, False, routing)
    assert tried.admits(now)
    tried.fail(now, failure, False, routing)
    for times in (1, 2, 4, 8, 12, 12):
        assert not tried.admits(now + 5.0 * times - 0.001)
        now += 5.0 * times
        assert tried.admits(now)
        assert tried.take()
        assert not tried.admits(now)
        tried.fail(now, failure, False, routing)  # of one that was sent before
        assert not tried.admits(now)
        tried.fail(now, failure, True, routing)
    now = tried.until
    assert tried.take()
    tried.answered(routing.breaker_failures)
    tried.succeed()
    for _ in range(2):
        tried.fail(now, failure, False, routing)
    assert tried.until == now + 5.0


@pytest.mark.slow
def test_a_probe_whose_client_leaves_gives_its_turn_back(ups: Callable, guarded: Callable) -> None:
    up = ups()
    up.reply(status=500, times=3)
    up.hang(times=1)
    running = guarded(up)
    open_it(running, up)
    wait_half_open(running)
    with asking(running):
        up.wait_requests(4)
    up.wait_closed(index=3)
    deadline = time.monotonic() + 20
    while running.get("/models/bench").json()["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert running.chat().status_code == 200
    assert breaker(running)["state"] == "closed"


@pytest.mark.slow
def test_a_probing_stream_lets_others_go_at_its_first_byte_and_opens_again_when_it_is_cut(
    ups: Callable, guarded: Callable
) -> None:
    up = ups()
    gate = threading.Event()
    cut = Script((*stream_head(), (0.0, b"")), end="close", gate=gate)
    up.reply(status=500, times=3)
    up.use(cut, times=1)
    running = guarded(up)
    open_it(running, up)
    wait_half_open(running)
    probing = running.chat(stream=True)
    assert probing.status_code == 200
    assert running.chat().status_code == 200  # a whole answer ends the row
    for _ in range(2):
        up.reply(status=500, times=1)
        assert running.chat().status_code == 502
    gate.set()
    assert b"upstream_error" in probing.content
    assert breaker(running)["state"] == "open"


def stream_head() -> tuple:
    import json

    event = b"data: " + json.dumps(chat_chunk("one")).encode() + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return ((0.0, head + b"%x\r\n%b\r\n" % (len(event), event)),)


def test_an_open_breaker_costs_no_attempt(ups: Callable, guarded: Callable) -> None:
    first, second = ups(), ups()
    first.reply(status=500)
    running = guarded(first, second, pause=60, provider={"retries": 2})
    for attempts in ("2", "2", "2", "1", "1"):
        answer = running.chat()
        assert answer.headers["x-sage-deployment"] == "up1/theirs-1"
        assert answer.headers["x-sage-attempts"] == attempts
    assert len(first.requests) == 3


@pytest.mark.slow
def test_a_prober_that_asks_for_nonsense_tells_nothing(ups: Callable, guarded: Callable) -> None:
    up = ups()

    def handler(request: Received) -> Script:
        return reply(status=400) if "nonsense" in request.body else reply({"choices": [{"message": {}}]})

    up.reply(status=500, times=3)
    up.handler = handler
    running = guarded(up)
    open_it(running, up)
    wait_half_open(running)
    assert running.chat(nonsense=1).status_code == 400
    assert breaker(running)["state"] == "half_open"
    assert running.chat().status_code == 200
    assert breaker(running)["state"] == "closed"
