"""Rights that are taken away while an answer comes that is no call of a model: pulls, events of jobs, files."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi.responses import StreamingResponse
from running_gateway import Running
from upstream import Received, Script, Upstream, reply, stream

from sage.errors import AuthenticationFailed
from sage.middleware.auth.principal import Scope
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.routers.http.open_answers import OpenAnswer, OpenAnswers

STEP = b'{"status": "pulling manifest"}\n'


@pytest.fixture
def hanging() -> Iterator[Upstream]:
    """An Ollama whose pulls begin and never end."""
    with Upstream() as up:
        pull = stream([STEP] * 2, no_done=True, headers={"content-type": "application/x-ndjson"}, hang_after=1)

        def answer(request: Received) -> Script:
            return pull if request.path == "/api/pull" else reply({"models": []})

        up.handler = answer
        yield up


@pytest.mark.slow
def test_who_loses_a_right_loses_the_answers_that_are_no_calls_of_models(
    hanging: Upstream, gateway: Callable[..., Running]
) -> None:
    provider = {"kind": "ollama", "base_url": hanging.url.removesuffix("/v1"), "allow_pull": ["*"]}
    running = gateway(llm={"providers": {"house": provider}}, queue={"embedded_worker": False})
    made = running.post("/auth/keys", {"scopes": ["models:write", "models:read", "tasks"]}).json()
    key = made["key"]
    job = running.post("/tasks/generate", {"model": "house/a", "requests": [{"prompt": "one"}]}).json()
    kept = running.get(f"/tasks/{job['id']}/events", stream=True)

    pulled = running.post("/models/house/a/pull", key=key, stream=True)
    wire = running.post("/api/pull", {"model": "house/b"}, key=key, stream=True)
    events = running.get(f"/tasks/{job['id']}/events", key=key, stream=True)
    whole: list[Any] = []
    body = {"model": "house/c", "stream": False}
    waiting = threading.Thread(target=lambda: whole.append(running.post("/api/pull", body, key=key)))
    waiting.start()
    streams = [each.iter_lines() for each in (pulled, wire, events)]
    assert [b"pulling manifest" in next(lines) for lines in streams[:2]] == [True, True]
    assert next(streams[2]) == b"event: progress"
    while sum(request.path == "/api/pull" for request in hanging.requests) < 3:
        time.sleep(0.02)

    began = time.monotonic()
    assert running.request("DELETE", f"/auth/keys/{made['id']}").status_code == 200
    rests = [b"\n".join(lines) for lines in streams]
    waiting.join(10)
    assert time.monotonic() - began < 5
    assert json.loads(rests[0].split(b"data: ")[-1])["error"]["code"] == "rights_revoked"
    assert b"[DONE]" not in rests[0]
    assert "right to this answer was taken away" in json.loads(rests[1].splitlines()[-1])["error"]
    last = rests[2].rstrip().rpartition(b"event: error\n")[2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "rights_revoked"
    assert (whole[0].status_code, whole[0].json()["error"]["code"]) == (401, "rights_revoked")
    for request in hanging.requests:
        if request.path == "/api/pull":
            assert request.closed.wait(5)  # nothing is fetched for nobody
    assert running.get("/audit", params={"action": "model.pull"}).json()["events"] == []

    assert running.request("DELETE", f"/tasks/{job['id']}").status_code in (202, 204)
    assert b"rights_revoked" not in b"\n".join(kept.iter_lines())  # who kept its right has the end of the stream


def test_a_file_that_is_cut_off_does_not_look_whole() -> None:
    asyncio.run(_cut_off(b"application/octet-stream"))


async def _cut_off(media_type: bytes) -> None:
    scope: Any = {"type": "http", "state": {"log": {}}, "asgi": {"spec_version": "2.4"}, "headers": []}
    answers, sent = OpenAnswers(), list[Any]()
    answer = OpenAnswer(scope, Scope.SEARCH, answers)
    began = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        began.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    response = answer.made(StreamingResponse(pieces(), media_type=media_type.decode()))
    task = asyncio.ensure_future(response(scope, receive, send))
    await began.wait()
    assert answers.list() == [answer]
    answer.revoke(AuthenticationFailed("gone", code="rights_revoked"))
    with pytest.raises(ClientLeft):
        await task
    assert [message.get("body") for message in sent] == [None, b"half"]
    assert answers.list() == []


def test_work_that_goes_on_is_not_torn_and_its_answer_is_refused() -> None:
    scope: Any = {"type": "http", "state": {"log": {}}}
    answers = OpenAnswers()
    answer = OpenAnswer(scope, Scope.SEARCH, answers)
    answer.revoke(AuthenticationFailed("gone", code="rights_revoked"))
    with pytest.raises(AuthenticationFailed):
        answer.made(StreamingResponse(iter([b"secret"])))
