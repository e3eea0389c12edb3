"""What requests leave behind: nothing that only the garbage collector could free."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from running_gateway import Running
from test_protocol import connect
from transports import TransportKind, on_each_transport
from upstream import Upstream

pytestmark = pytest.mark.slow
CONNECTIONS, EACH = 10, 30


def ask(running: Running) -> None:
    body = b'{"model":"bench","messages":[{"role":"user","content":"x"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def work() -> None:
        with connect(running) as sock:
            for _ in range(EACH):
                sock.sendall(request)
                assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 10
    while running.server.server_state.connections or running.server.server_state.tasks:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@on_each_transport
def test_requests_that_wait_for_their_upstream_leave_no_circles(
    upstreams: Callable[..., Running], transport_kind: TransportKind
) -> None:
    """A request that took over 20 ms left 28 objects once: a watching task, its timers and their errors."""
    with Upstream() as up:
        running = upstreams(up, llm={"transport": transport_kind})
        up.reply({"choices": [{"message": {}}]}, delay=0.05)
        ask(running)
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            ask(running)
            gc.collect()
            kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert kinds.total() < CONNECTIONS * EACH // 3, kinds.most_common(20)
