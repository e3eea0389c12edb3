"""The failures of other gateways that this one is to be immune to, each against an upstream that misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import openai
import pytest
import requests
from departing import asking
from transports import on_each_transport
from upstream import Upstream, chat_chunk

from sage.middleware.settings.settings import TransportKind

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

CHAT = "/v1/chat/completions"


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


def events(answer: requests.Response) -> list[str]:
    """What follows ``data:`` in each event; the stream must consist of whole events."""
    text = answer.content.decode()
    assert text.endswith("\n\n")
    parts = [part for part in text.split("\n\n") if part and part != ":"]  # without comments
    assert all(part.startswith("data: ") for part in parts)
    return [part.removeprefix("data: ") for part in parts]


# 6: the client leaves and the upstream goes on billing.


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/generate", {"prompt": "x"}),
        ("/generate", {"prompt": "x", "stream": True}),
    ],
)
def test_a_client_that_disconnects_before_the_first_byte_ends_the_call(
    ups: Callable, upstreams: Callable, path: str, body: dict
) -> None:
    up = ups()
    up.hang()
    running = upstreams(up)
    with asking(running, path, **body):
        up.wait_requests(1)
    left = time.monotonic()
    assert up.wait_closed(10).closed_at - left < 3.0
    _wait_metric(running, 'sage_requests_total{model="bench",status="499"} 1.0')
    _wait_metric(running, 'sage_requests_in_flight{model="bench"} 0.0')


@pytest.mark.parametrize("path", [CHAT, "/generate"])
def test_a_client_that_disconnects_in_mid_stream_ends_the_call(ups: Callable, upstreams: Callable, path: str) -> None:
    up = ups()
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    running = upstreams(up)
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    answer = running.post(path, body, stream=True)
    assert b"one" in next(answer.iter_lines())
    answer.close()
    left = time.monotonic()
    assert up.wait_closed(10).closed_at - left < 3.0
    _wait_metric(running, 'sage_requests_in_flight{model="bench"} 0.0')


def _wait_metric(running, line: str) -> None:
    deadline = time.monotonic() + 20
    while line not in (text := running.get("/metrics").text):
        assert time.monotonic() < deadline, text
        time.sleep(0.01)


# 7: an error inside a 200 stream, when no byte has gone: a real status, and fallback.


def test_an_error_inside_a_200_stream_is_a_real_status(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.stream(['{"error": {"message": "slow down", "type": "rate_limit", "code": 429}}'])
    answer = upstreams(up).chat(stream=True)
    assert answer.status_code == 429
    assert "slow down" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1


def test_an_error_inside_a_200_stream_falls_back(ups: Callable, upstreams: Callable) -> None:
    first, second = ups(), ups()
    first.stream([b": keep-alive\n\n", '{"error": {"message": "broken"}}'])
    second.stream([chat_chunk("from the second"), chat_chunk(None, "stop")])
    answer = upstreams(first, second).chat(stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-sage-deployment"] == "up1/theirs-1"
    assert answer.headers["x-sage-attempts"] == "2"
    got = events(answer)
    assert json.loads(got[0])["choices"][0]["delta"]["content"] == "from the second"
    assert json.loads(got[0])["model"] == "bench"
    assert got[-1] == "[DONE]"


@pytest.mark.slow
@pytest.mark.parametrize("break_it", ["hang_up", "status", "html", "nonsense", "not_streaming"])
def test_what_breaks_before_the_first_byte_falls_back(ups: Callable, upstreams: Callable, break_it: str) -> None:
    first, second = ups(), ups()
    {
        "hang_up": lambda: first.close_at_once(),
        "status": lambda: first.reply(status=500),
        "html": lambda: first.reply(body=b"<html>gateway error</html>", headers={"content-type": "text/html"}),
        "nonsense": lambda: first.raw(b"SSH-2.0-OpenSSH_9\r\n"),
        "not_streaming": lambda: first.reply({"choices": []}),
    }[break_it]()
    answer = upstreams(first, second).chat(stream=True)
    assert answer.status_code == 200
    assert answer.headers["x-sage-deployment"] == "up1/theirs-1"
    assert events(answer)[-1] == "[DONE]"


# 8: a cut stream reported as finished; 9: text doubled by falling back in mid-stream.


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"reset": True}, {"clean": True}])
def test_a_cut_stream_says_so_and_never_finishes(ups: Callable, upstreams: Callable, how: dict) -> None:
    first, second = ups(), ups()
    first.stream([chat_chunk("one"), chat_chunk(" two"), chat_chunk(None, "stop")], cut_after=1, delay=0.02, **how)
    running = upstreams(first, second)
    answer = running.chat(stream=True)
    got = events(answer)
    assert json.loads(got[0])["choices"][0]["delta"]["content"] == "one"
    error = json.loads(got[-1])["error"]
    assert error["type"] == "upstream_error"
    assert "up0" in error["message"] or "whole" in error["message"]
    assert "[DONE]" not in got
    assert all(
        not json.loads(part).get("choices") or not json.loads(part)["choices"][0]["finish_reason"] for part in got
    )
    assert second.requests == []
    assert 'sage_requests_total{model="bench",status="502"} 1.0' in running.get("/metrics").text
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        stream = client.chat.completions.create(model="bench", messages=[{"role": "user", "content": "x"}], stream=True)
        with pytest.raises(openai.APIError):
            list(stream)


def test_generate_reports_a_cut_stream_too(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.stream([chat_chunk("one"), chat_chunk(" two")], cut_after=1, delay=0.02)
    answer = upstreams(up).post("/generate", {"model": "bench", "prompt": "x", "stream": True})
    got = events(answer)
    assert json.loads(got[0]) == {"text": "one"}
    assert json.loads(got[-1])["error"]["code"] == "upstream_broken"
    assert "[DONE]" not in got


def test_an_error_in_mid_stream_ends_it(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    broken = '{"error": {"message": "out of memory", "code": 500}}'
    up.stream([chat_chunk("one"), broken, chat_chunk("never")], delay=0.05)
    got = events(upstreams(up).chat(stream=True))
    assert json.loads(got[0])["choices"][0]["delta"]["content"] == "one"
    assert "out of memory" in json.loads(got[-1])["error"]["message"]
    assert not any("never" in part or "[DONE]" in part for part in got)


def test_a_stream_without_done_is_whole_only_when_it_finished(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.stream([chat_chunk("one"), chat_chunk(None, "stop")], no_done=True, times=1)
    up.stream([chat_chunk("one")], no_done=True, times=1)
    running = upstreams(up)
    assert events(running.chat(stream=True))[-1] == "[DONE]"
    assert "error" in json.loads(events(running.chat(stream=True))[-1])


def test_a_cut_whole_answer_is_a_failure(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"choices": [')
    answer = upstreams(up).chat()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_broken"


# 10: Retry-After ignored or not sent on.


@pytest.mark.parametrize(("status", "ours"), [(429, 429), (503, 503), (529, 503)])
def test_retry_after_is_sent_on(ups: Callable, upstreams: Callable, status: int, ours: int) -> None:
    up = ups()
    up.reply(status=status, headers={"retry-after": "17"})
    answer = upstreams(up).chat()
    assert answer.status_code == ours
    assert answer.headers["retry-after"] == "17"
    assert len(up.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "ours", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (404, 404, "not_found_error"),
        (422, 400, "invalid_request_error"),
        (500, 502, "upstream_error"),
        (502, 502, "upstream_error"),
        (504, 504, "timeout_error"),
    ],
)
def test_failures_keep_their_meaning(ups: Callable, upstreams: Callable, status: int, ours: int, kind: str) -> None:
    up = ups()
    up.reply({"error": {"message": "because", "param": "top_p"}}, status=status)
    answer = upstreams(up).chat()
    assert answer.status_code == ours
    error = answer.json()["error"]
    assert error["type"] == kind
    assert error["message"] == f"the provider 'up0' answered {status}: because"
    assert error["param"] == ("top_p" if ours in (400, 404, 502, 504) else None)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_of_ours_is_a_502_that_quotes_nothing(ups: Callable, upstreams: Callable, status: int) -> None:
    up = ups()
    up.reply({"error": {"message": "Incorrect API key provided: sk-upstream"}}, status=status)
    answer = upstreams(up).chat()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_credential_refused"
    assert "sk-upstream" not in answer.text


@pytest.mark.slow
def test_never_more_than_three_attempts_and_none_twice(ups: Callable, upstreams: Callable) -> None:
    servers = [ups() for _ in range(5)]
    for up in servers:
        up.reply(status=500)
    answer = upstreams(*servers).chat()
    assert answer.status_code == 502
    assert [len(up.requests) for up in servers] == [1, 1, 1, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "script", "code"),
    [
        ({"first_byte": 0.2}, lambda up: up.hang(), "read_timeout"),
        (
            {"between_chunks": 0.2},
            lambda up: up.stream([chat_chunk("a"), chat_chunk("b")], hang_after=1),
            "read_timeout",
        ),
        ({"total": 0.4}, lambda up: up.stream([chat_chunk("a")] * 50, delay=0.05), "total_timeout"),
        ({"total": 0.3}, lambda up: up.hang(), "total_timeout"),
        (
            {"total": 0.8, "first_byte": 0.7},
            lambda up: up.stream([chat_chunk("a")], first_byte_delay=0.15, hang_after=0),
            "total_timeout",
        ),
    ],
)
def test_limits_of_time(ups: Callable, upstreams: Callable, limits: dict, script: Callable, code: str) -> None:
    up = ups()
    script(up)
    running = upstreams(up, provider={"timeouts": limits})
    begun = time.monotonic()
    answer = running.chat(stream=True)
    error = answer.json()["error"] if answer.status_code != 200 else json.loads(events(answer)[-1])["error"]
    assert time.monotonic() - begun < 10
    assert error["type"] == "timeout_error"
    assert error["code"] == code
    assert up.wait_closed(10)


@pytest.mark.slow
def test_a_slow_answer_is_not_cut_by_the_limits_between_chunks(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.stream([chat_chunk(str(n)) for n in range(12)] + [chat_chunk(None, "stop")], delay=0.1)
    running = upstreams(up, provider={"timeouts": {"between_chunks": 1.0, "first_byte": 1.0}})
    assert events(running.chat(stream=True))[-1] == "[DONE]"


# 16: who may, and with what.


def test_fields_that_divert_the_call_never_go_on(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    running = upstreams(up, provider={"deny_fields": ["house_rule"]})
    for field in ("api_base", "base_url", "api_key", "chat_template", "logits_processors", "house_rule"):
        answer = running.chat(**{field: "http://evil.example"})
        assert answer.status_code == 400, field
        assert answer.json()["error"]["param"] == field
    assert up.requests == []


def test_the_callers_credential_is_never_sent_upstream(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    running = upstreams(up)
    running.chat(headers={"x-api-key": "mine", "cookie": "a=b"})
    sent = up.requests[0]
    assert running.key not in str(sent.headers) + sent.raw.decode()
    assert not {"x-api-key", "cookie"} & set(sent.headers)


def test_redirects_are_not_followed(ups: Callable, upstreams: Callable) -> None:
    up, elsewhere = ups(), ups()
    up.reply({}, status=307, headers={"location": f"{elsewhere.url}/chat/completions"})
    assert upstreams(up).chat().status_code == 502
    assert elsewhere.requests == []


def test_a_keys_models_hold_for_fallbacks_too(ups: Callable, upstreams: Callable) -> None:
    first, second = ups(), ups()
    first.reply(status=500)
    running = upstreams(first, second)
    key = running.new_key(models=["bench"])
    assert running.chat(key=key).status_code == 502
    assert second.requests == []
    named = running.chat(key=key, models=["bench1"])
    assert named.status_code == 403
    assert named.json()["error"]["code"] == "model_not_allowed"
    wider = running.new_key(models=["bench*"])
    assert running.chat(key=wider).headers["x-sage-deployment"] == "up1/theirs-1"
    by_request = running.chat(key=wider, models=["up1/other"])
    assert by_request.status_code == 403


def test_fallbacks_of_the_request_come_before_those_of_the_model(ups: Callable, upstreams: Callable) -> None:
    first, second = ups(), ups()
    first.reply(status=500)
    answer = upstreams(first, second).chat(models=["up1/special"])
    assert answer.headers["x-sage-deployment"] == "up1/special"
    assert "models" not in second.requests[0].body


# 21: forty milliseconds of Nagle and delayed ACK.


def test_chunks_leave_as_they_come(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.stream([chat_chunk("a"), chat_chunk("b"), chat_chunk(None, "stop")], delay=0.02, gate=gate)
    answer = upstreams(up).chat(stream=True)
    lines = (line for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data"))
    assert [b'"a"' in next(lines), b'"b"' in next(lines), b'"stop"' in next(lines)] == [True] * 3
    gate.set()  # what came so far did not wait for it
    assert list(lines) == [b"data: [DONE]"]


def sockets_to(port: int) -> Iterator[socket.socket]:
    """This process's sockets that are connected to ``port`` here, each as a copy that is closed after its turn."""
    for number in (int(name) for name in os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as copy:
                    if copy.family == socket.AF_INET and copy.getpeername()[1] == port:
                        yield copy


@on_each_transport
def test_both_legs_send_at_once(gateway: Callable, ups: Callable, transport_kind: TransportKind) -> None:
    up = ups()
    up.hang()
    providers = {"up0": {"kind": "openai", "base_url": up.url}}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "m"}]}}
    running = gateway(llm={"providers": providers, "models": models, "transport": transport_kind})
    with asking(running):
        up.wait_requests(1)
        connections = list(running.server.server_state.connections)
        assert connections
        for leg in connections:
            sock = leg.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        delays = [leg.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for leg in sockets_to(urlsplit(up.url).port)]
        assert set(delays) == {1}


# What a review of the request's way found.


def test_a_completion_is_whole_only_when_each_prompts_answer_has_finished(ups: Callable, upstreams: Callable) -> None:
    up = ups()

    def piece(index: int, finish: str | None) -> dict:
        choice = {"index": index, "text": "a", "finish_reason": finish}
        return {"object": "text_completion", "model": "m", "choices": [choice]}

    up.stream([piece(0, None), piece(1, None), piece(0, "stop")], no_done=True)
    body = {"model": "bench", "prompt": ["a", "b"], "stream": True}
    got = events(upstreams(up).post("/v1/completions", body))
    assert "error" in json.loads(got[-1])


@pytest.mark.parametrize(("value", "ours"), [("inf", "1"), ("1e400", "1"), ("nonsense", "1"), ("1e300", "86400")])
def test_odd_values_of_retry_after(ups: Callable, upstreams: Callable, value: str, ours: str) -> None:
    up = ups()
    up.reply(status=429, headers={"retry-after": value})
    answer = upstreams(up).chat()
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == ours


def test_json_that_is_nested_too_deeply_is_refused(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    running = upstreams(up)
    deep: list = []
    for _ in range(400):
        deep = [deep]
    assert running.chat(extra=deep).status_code == 400
    assert running.post("/generate", {"model": "bench", "prompt": "x", "extra": deep}).status_code == 400
    assert up.requests == []
    message = {"role": "assistant", "content": "x"}
    up.reply({"choices": [{"index": 0, "message": message}], "extra": deep})
    assert running.chat().json()["error"]["code"] == "upstream_nonsense"


@pytest.mark.parametrize("choices", [[1], [None], [{"message": "text"}], [{}], "none"])
@pytest.mark.parametrize("path", [CHAT, "/generate"])
def test_answers_that_are_none(ups: Callable, upstreams: Callable, choices: object, path: str) -> None:
    up = ups()
    up.reply({"choices": choices, "usage": {"prompt_tokens": "seven"}})
    body = {"model": "bench", "messages": [{"role": "user", "content": "x"}]}
    answer = upstreams(up).post(path, body)
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_nonsense"


def test_generate_reads_parts_and_survives_odd_chunks(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    parts = [{"type": "text", "text": "Par"}, {"type": "text", "text": "is"}]
    answer = {"choices": [{"message": {"content": parts}, "finish_reason": "stop"}], "usage": {"prompt_tokens": "7"}}
    up.reply(answer, times=1)
    up.stream([{"choices": [None]}, {"choices": [{"delta": "x"}]}, chat_chunk("ok"), chat_chunk(None, "stop")], times=1)
    running = upstreams(up)
    assert running.post("/generate", {"model": "bench", "prompt": "x"}).json()["text"] == "Paris"
    got = events(running.post("/generate", {"model": "bench", "prompt": "x", "stream": True}))
    assert json.loads(got[0]) == {"text": "ok"}
    assert got[-1] == "[DONE]"


def test_no_secret_of_ours_comes_back_in_what_an_upstream_says(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    message = "bad token f00dfeed.cafe and header hdr-secret-99"
    up.reply({"error": {"message": message}}, status=400, times=1)
    up.stream([json.dumps({"error": {"message": message, "code": 400}})], times=1)
    running = upstreams(up, provider={"api_key": "f00dfeed.cafe", "headers": {"x-token": "hdr-secret-99"}})
    for stream in (False, True):
        answer = running.chat(stream=stream)
        assert answer.status_code == 400
        assert "f00dfeed" not in answer.text
        assert "hdr-secret" not in answer.text


def test_numbers_go_on_as_they_are_or_not_at_all(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    running = upstreams(up)
    text = [{"role": "user", "content": "12345678901234567890123"}]
    assert running.chat(seed=2**64 - 1, id=-(2**63), messages=text).status_code == 200
    assert up.requests[0].body["seed"] == 2**64 - 1
    assert up.requests[0].body["id"] == -(2**63)
    answer = running.chat(seed=2**64)
    assert answer.status_code == 400
    assert "more than 64 bits" in answer.json()["error"]["message"]


@pytest.mark.slow
def test_an_upstream_that_stays_open_after_done_delays_no_answer(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.stream([chat_chunk("a"), chat_chunk(None, "stop"), b"data: [DONE]\n\n", chat_chunk("x")], hang_after=3)
    running = upstreams(up)
    begun = time.monotonic()
    assert events(running.chat(stream=True))[-1] == "[DONE]"
    assert time.monotonic() - begun < 10
    up.wait_closed(5)
    _wait_metric(running, 'sage_requests_total{model="bench",status="200"} 1.0')


@pytest.mark.slow
def test_the_whole_time_of_a_call_is_bounded_whatever_it_waits_for(ups: Callable, upstreams: Callable) -> None:
    import socket

    # A head that trickles for ever: each byte comes well before the limit of silence.
    server = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        peer, _ = server.accept()
        with peer:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nx-pad: " + b"y" * 2000:
                    peer.sendall(bytes([byte]))
                    time.sleep(0.1)
            except OSError:
                pass

    thread = threading.Thread(target=trickle)
    thread.start()
    up = ups()
    up.url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    running = upstreams(up, provider={"timeouts": {"total": 0.5}})
    begun = time.monotonic()
    answer = running.chat()
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "total_timeout"
    assert time.monotonic() - begun < 10
    thread.join(10)
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", [CHAT, "/v2/chat", "/api/chat"])
def test_a_stream_whose_time_passes_while_the_gateway_is_busy_is_told(
    ups: Callable, upstreams: Callable, path: str
) -> None:
    """Then the deadlines of the client to the upstream and of the whole call are noticed at once."""
    up = ups()
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    running = upstreams(up, provider={"timeouts": {"total": 0.4}})
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    answer = running.post(path, body, stream=True)
    lines = answer.iter_lines()
    while b"one" not in next(lines):
        pass
    loop = running.edge.app.state.gateway.loop
    loop.call_soon_threadsafe(time.sleep, 0.7)
    assert b"took longer than 0.4 s in all" in b"".join(lines)
    _wait_metric(running, 'sage_requests_total{model="bench",status="504"} 1.0')


@pytest.mark.slow
def test_a_client_that_does_not_read_is_let_go_in_the_end(ups: Callable, upstreams: Callable) -> None:
    import socket

    up = ups()
    up.stream([chat_chunk("x" * 1_000_000) for _ in range(60)])
    running = upstreams(up, provider={"timeouts": {"total": 0.5}})
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        body = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"x"}]}'
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        up.wait_closed(10)
        _wait_metric(running, 'sage_requests_in_flight{model="bench"} 0.0')
        assert running.get("/models/bench").json()["in_flight"] == 0


@pytest.mark.parametrize(
    "credential",
    [
        "sk-sage-' OR '1'='1-" + "a" * 46,
        "sk-sage-a' UNION SELECT secret_hash FROM api_keys--",
        "sk-sage-" + "%" * 12 + "-" + "_" * 46,
        "' OR 1=1 --",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0.",
        "sk-1234",
    ],
)
def test_no_made_up_credential_opens_anything(ups: Callable, upstreams: Callable, credential: str) -> None:
    up = ups()
    running = upstreams(up)
    answer = running.chat(key=credential)
    assert answer.status_code == 401
    assert credential not in answer.text
    assert running.chat().status_code == 200
    assert len(up.requests) == 1


@pytest.mark.slow
def test_a_fallback_has_its_own_time(ups: Callable, gateway: Callable) -> None:
    """The first deployment's time is short; what comes after it does not end by it."""
    first, second = ups(), ups()
    first.reply(status=500)
    second.reply({"choices": [{"index": 0, "message": {"content": "late"}}]}, delay=0.8)
    providers = {
        "short": {"kind": "openai", "base_url": first.url, "timeouts": {"total": 0.3}},
        "long": {"kind": "openai", "base_url": second.url},
    }
    deployments = [{"provider": "short", "model": "m"}, {"provider": "long", "model": "m", "priority": 1}]
    answer = gateway(llm={"providers": providers, "models": {"bench": {"deployments": deployments}}}).chat()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "late"


def test_the_head_of_a_stream_comes_before_its_first_text(ups: Callable, upstreams: Callable) -> None:
    up = ups()
    up.stream([chat_chunk(None), chat_chunk("never")], hang_after=1)
    answer = upstreams(up).post("/generate", {"model": "bench", "prompt": "x", "stream": True}, stream=True, timeout=20)
    assert answer.status_code == 200
    assert next(answer.iter_content(None)) == b":\n\n"
    answer.close()
