"""How the processes of `sage serve --workers 2` end: one that is killed, all of them, and with requests that run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest
from sage_process import children, wait_gone
from upstream import chat_chunk
from worker_family import Client, worker_family

pytestmark = pytest.mark.slow
CHAT = [{"role": "user", "content": "say hello"}]
STREAMS = 100
FULL = bool(os.environ.get("SAGE_TEST_FULL"))


class Caller(threading.Thread):
    """Sends requests until :attr:`stop` is set; a connection that ends is followed by a new one."""

    def __init__(self, port: int, model: str) -> None:
        super().__init__()
        self.stop = threading.Event()
        self.whole = 0
        """Whole right answers."""
        self.unanswered = 0
        """Requests whose connection ended without a byte of an answer."""
        self.wrong: list[str] = []
        self._port = port
        self._model = model

    def run(self) -> None:
        client = Client(self._port, None)
        while not self.stop.is_set():
            try:
                answer = client.chat(self._model, "one two three")
                if answer.status == 200 and answer.json["choices"][0]["message"]["content"] == "one two three":
                    self.whole += 1
                else:
                    self.wrong.append(f"{answer.status} {answer.body!r}")
            except (ConnectionError, json.JSONDecodeError, AssertionError, OSError) as exc:
                if not isinstance(exc, ConnectionError):
                    self.wrong.append(repr(exc))
                self.unanswered += 1
                client.close()
                client = Client(self._port, None)
        client.close()


def test_a_front_that_is_killed_under_load_comes_back_and_nobody_else_notices(tmp_path: Path) -> None:
    with worker_family(tmp_path, accounts=False) as family:
        callers = [Caller(family.port, model) for model in ("free", "capped") for _ in range(4)]
        # Those of `capped` may find no place in time where both of its places are taken; two callers cannot.
        callers = callers[:6]
        for caller in callers:
            caller.start()
        family.wait(lambda: all(caller.whole for caller in callers))
        front = family.front()
        os.kill(front, signal.SIGKILL)
        family.wait(lambda: family.front_or_none() not in (None, front))
        assert family.client(1).chat("free").status == 200
        family.close_clients()
        for caller in callers:
            caller.stop.set()
        for caller in callers:
            caller.join(30)
        assert [caller.wrong for caller in callers] == [[]] * len(callers)
        assert sum(caller.unanswered for caller in callers) <= len(callers), "each had one request at the front"
        assert "worker 1 was ended by SIGKILL" in family.serving.log.read_text()


@pytest.mark.skipif(not FULL, reason="ten to twenty seconds of waiting: SAGE_TEST_FULL=1")
def test_a_front_that_is_stuck_is_ended_and_another_takes_its_place(tmp_path: Path) -> None:
    with worker_family(tmp_path, accounts=False) as family:
        front = family.front()
        os.kill(front, signal.SIGSTOP)
        family.wait(lambda: family.front_or_none() not in (None, front), 60)
        assert family.client(1).chat("free").status == 200
        assert "worker 1 does not answer; it is ended" in family.serving.log.read_text()
        family.close_clients()


def test_when_the_owner_is_killed_all_end(tmp_path: Path) -> None:
    with worker_family(tmp_path, accounts=False) as family:
        assert family.client(1).chat("tiny", max_tokens=1).status == 200
        family.close_clients()
        everyone = children(family.owner)
        assert len(everyone) == 4, "a front, an engine and its two supervisors"
        family.serving.process.kill()
        wait_gone(everyone)
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", family.port), timeout=5).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT] if FULL else [signal.SIGTERM])
def test_open_streams_end_properly_at_all_workers(tmp_path: Path, number: signal.Signals) -> None:
    events = [chat_chunk(str(index)) for index in range(6)] + [chat_chunk(None, "stop")]
    with worker_family(tmp_path, accounts=False) as family:
        family.upstream.stream(events, delay=0.4)
        streams = []
        for index in range(STREAMS):
            client = Client(family.port, None)
            model = ("free", "pair")[index % 2]
            body = {"model": model, "messages": CHAT, "stream": True}
            streams.append((client, client.begin("POST", "/v1/chat/completions", body)))
        for _, stream in streams:
            assert b'"0"' in stream.readline()
        family.serving.process.send_signal(number)
        for client, stream in streams:
            rest = stream.read()
            assert rest.endswith(b"data: [DONE]\n\n"), rest[-500:]
            assert all(b'"content":"%d"' % index in rest.replace(b" ", b"") for index in range(1, 6))
            client.close()
        family.serving.process.wait(20)
        assert family.serving.process.returncode == (0 if number == signal.SIGTERM else 130)
        workers = {line["worker"] for line in family.lines() if line["path"] == "/v1/chat/completions"}
        assert workers == {0, 1}
        assert len([line for line in family.lines() if line["status"] == 200]) == STREAMS


def test_forwarded_streams_end_properly_too_and_at_the_end_of_the_grace_with_an_error(tmp_path: Path) -> None:
    with worker_family(tmp_path, accounts=False, shutdown_grace="1s") as family:
        family.upstream.stream([chat_chunk("one"), chat_chunk(None, "stop")], delay=0.2, times=1)
        family.upstream.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
        streams = []
        for _ in range(2):
            client = family.client(1)
            body = {"model": "capped", "messages": CHAT, "stream": True}
            streams.append(client.begin("POST", "/v1/chat/completions", body))
            assert b"one" in streams[-1].readline()
        direct = family.client(1).begin(
            "POST", "/v1/chat/completions", {"model": "free", "messages": CHAT, "stream": True}
        )
        assert b"one" in direct.readline()
        family.wait(lambda: family.client(0).ask("GET", "/models/free").json["in_flight"] == 1)
        family.serving.process.send_signal(signal.SIGTERM)
        assert streams[0].read().endswith(b"data: [DONE]\n\n")
        for stream in (streams[1], direct):
            last = stream.read().strip().rpartition(b"data: ")[2]
            assert json.loads(last)["error"]["code"] == "shutting_down"
        family.close_clients()
        assert family.serving.process.wait(20) == 0
        assert re.search(r"waiting at most 1 s for [23] running request\(s\)", family.serving.log.read_text())


def test_a_front_that_is_asked_to_end_finishes_its_requests_and_a_second_signal_ends_all_at_once(
    tmp_path: Path,
) -> None:
    with worker_family(tmp_path, accounts=False) as family:
        family.upstream.stream([chat_chunk("one"), chat_chunk(None, "stop")], delay=0.5)
        streams = []
        for model in ("free", "capped"):
            body = {"model": model, "messages": CHAT, "stream": True}
            streams.append(family.client(1).begin("POST", "/v1/chat/completions", body))
            assert b"one" in streams[-1].readline()
        front = family.front()
        os.kill(front, signal.SIGTERM)
        for stream in streams:
            assert stream.read().endswith(b"data: [DONE]\n\n")
        family.close_clients()
        family.wait(lambda: family.front_or_none() not in (None, front))
        assert family.client(1).chat("free").status == 200

        family.upstream.reset()
        family.upstream.hang()
        for client in [family.client(worker) for worker in (0, 1)]:
            body = json.dumps({"model": "free", "messages": CHAT})
            client.connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        family.upstream.wait_requests(2)
        everyone = children(family.owner)
        family.serving.process.send_signal(signal.SIGTERM)
        family.wait(lambda: "waiting at most" in family.serving.log.read_text())
        family.serving.process.send_signal(signal.SIGTERM)
        family.serving.process.wait(15)  # the grace is 30 s
        wait_gone(everyone, 5)
        family.close_clients()
