"""A right that is taken away while a stream is open: new calls are refused, and the stream is closed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from running_gateway import PASSWORD
from upstream import Upstream, chat_chunk

pytestmark = pytest.mark.slow
Running = Any


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def demote(running: Running, _: str) -> None:
    assert running.request("PATCH", "/auth/users", json={"username": "ann", "role": "viewer"}).status_code == 200


def disable(running: Running, _: str) -> None:
    assert running.request("PATCH", "/auth/users", json={"username": "ann", "disabled": True}).status_code == 200


def revoke(running: Running, key_id: str) -> None:
    assert running.request("DELETE", f"/auth/keys/{key_id}").status_code in (200, 204)


@pytest.mark.parametrize("take_away", [demote, disable, revoke])
def test_new_calls_are_refused_and_the_stream_is_closed(
    up: Upstream, upstreams: Callable[..., Running], take_away: Callable[[Running, str], None]
) -> None:
    running = upstreams(up)
    ann = {"username": "ann", "password": "a fine password of ann"}
    assert running.post("/auth/users", {**ann, "role": "user"}).status_code == 201
    token = requests.post(f"{running.url}/auth/token", data=ann, timeout=30).json()["access_token"]
    made = running.post("/auth/keys", {"name": "k"}, key=token).json()
    up.stream([chat_chunk("Hi")], hang_after=1)
    hers = running.chat(stream=True, key=made["key"])
    others = running.chat(stream=True)
    lines, other_lines = hers.iter_lines(), others.iter_lines()
    assert b"Hi" in next(lines)
    assert b"Hi" in next(other_lines)

    began = time.monotonic()
    take_away(running, made["id"])
    rest = b"\n".join(lines)
    assert time.monotonic() - began < 5
    error = json.loads(rest.split(b"data: ")[-1])["error"]
    assert error["code"] == "rights_revoked"
    assert b"[DONE]" not in rest
    assert running.chat(key=made["key"]).status_code in (401, 403)
    assert time.monotonic() - began < 6
    assert up.requests[0].closed.wait(5)  # the upstream need not go on
    assert not up.requests[1].closed.is_set()
    others.close()


def test_a_logout_ends_the_streams_of_its_session_alone(up: Upstream, upstreams: Callable[..., Running]) -> None:
    running = upstreams(up)
    form = {"username": "root", "password": PASSWORD}
    here, there = (
        requests.post(f"{running.url}/auth/token", data=form, timeout=30).json()["access_token"] for _ in range(2)
    )
    up.stream([chat_chunk("Hi")], hang_after=1)
    streams = [running.chat(stream=True, key=token) for token in (here, there)]
    lines = [stream.iter_lines() for stream in streams]
    assert all(b"Hi" in next(each) for each in lines)
    assert running.post("/auth/logout", key=here).status_code == 204
    assert b"rights_revoked" in b"\n".join(lines[0])
    assert not up.requests[1].closed.wait(0.5)
    streams[1].close()
