"""Rights that are taken away while a stream is open: new calls are refused, the stream is closed, others go on."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from upstream import Upstream, chat_chunk, stream

pytestmark = pytest.mark.slow
Running = Any
SECRET = "a fine password of hers"
EVENTS = [chat_chunk("Hi"), chat_chunk(" there"), chat_chunk(None, "stop")]
SURFACES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/generate": {"prompt": "hello"},
}


class Person:
    """A user with a key and a login, who has a stream open."""

    def __init__(self, running: Running, name: str, *, by_key: bool = True, **key: Any) -> None:
        self.running, self.name = running, name
        assert running.post("/auth/teams", {"name": f"{name}s"}).status_code == 201
        user = {"username": name, "password": SECRET, "role": "user", "tenant": f"{name}s"}
        assert running.post("/auth/users", user).status_code == 201
        login = requests.post(f"{running.url}/auth/token", data={"username": name, "password": SECRET}, timeout=30)
        self.token = login.json()["access_token"]
        made = running.post("/auth/keys", {"name": "k", **key}, key=self.token).json()
        self.key_id, self.credential = made["id"], made["key"] if by_key else self.token

    def open(self, path: str) -> None:
        self.path = path
        self.answer = self.call(stream=True)
        assert self.answer.status_code == 200, self.answer.text
        self.lines = self.answer.iter_lines()
        assert b"Hi" in next(self.lines)

    def call(self, **fields: Any) -> requests.Response:
        body = {"model": "bench", **SURFACES[self.path], **fields}
        found: requests.Response = self.running.post(self.path, body, key=self.credential, stream="stream" in fields)
        return found

    def change(self, **fields: Any) -> None:
        answer = self.running.request("PATCH", "/auth/users", json={"username": self.name, **fields})
        assert answer.status_code == 200, answer.text

    def rest(self) -> bytes:
        return b"\n".join(self.lines)


def revoke(her: Person) -> None:
    assert her.running.request("DELETE", f"/auth/keys/{her.key_id}").status_code in (200, 204)


def rotate(her: Person) -> None:
    answer = her.running.post(f"/auth/keys/{her.key_id}/rotate", {"overlap": 0}, key=her.token)
    assert answer.status_code == 200, answer.text


def log_out(her: Person) -> None:
    assert her.running.post("/auth/logout", key=her.token).status_code == 204


def narrow(her: Person) -> None:
    [team] = [each for each in her.running.get("/auth/teams").json()["teams"] if each["name"] == f"{her.name}s"]
    answer = her.running.request("PATCH", f"/auth/teams/{team.get('id', team['name'])}", json={"models": ["other"]})
    assert answer.status_code == 200, answer.text


def wait(_: Person) -> None:
    """The key expires."""


CAUSES: dict[str, tuple[Callable[[Person], None], bool]] = {
    "demoted": (lambda her: her.change(role="viewer"), True),
    "disabled": (lambda her: her.change(disabled=True), False),
    "revoked": (revoke, True),
    "rotated": (rotate, True),
    "loggedout": (log_out, False),
    "newpassword": (lambda her: her.change(password="another password of hers"), False),
    "movedkey": (lambda her: her.change(tenant="default"), True),
    "moved": (lambda her: her.change(tenant="default"), False),
    "narrowed": (narrow, True),
    "expired": (wait, True),
}


def test_each_loss_of_a_right_ends_the_streams_under_it_and_no_others(upstreams: Callable[..., Running]) -> None:
    with Upstream() as up:
        running = upstreams(up)
        gate = threading.Event()
        up.use(stream(EVENTS, gate=gate))
        people = [Person(running, name, by_key=by_key) for name, (_, by_key) in CAUSES.items() if name != "expired"]
        expires_at = int(time.time()) + 4
        people.append(Person(running, "expired", expires_at=expires_at))
        others = [Person(running, name) for name in ("bystander", "onlooker")]
        paths = list(SURFACES)
        for number, each in enumerate([*people, *others]):
            each.open(paths[number % 2])
        assert time.time() < expires_at

        for her in people:
            began = time.time()
            CAUSES[her.name][0](her)
            rest = her.rest()
            assert time.time() < max(began, expires_at if her.name == "expired" else 0) + 5, her.name
            assert json.loads(rest.split(b"data: ")[-1])["error"]["code"] == "rights_revoked", her.name
            assert b"[DONE]" not in rest
            if her.name != "moved":  # whose login asks for the new team from now on
                assert her.call().status_code in (401, 403), her.name

        received = up.requests
        for number in range(len(people)):
            assert received[number].closed.wait(5)  # the upstream need not go on
        gate.set()
        for her in others:
            undisturbed = her.call(stream=True)
            assert her.rest() == b"\n".join(undisturbed.iter_lines()).partition(b"\n")[2]
        assert not any(each.closed.is_set() for each in received[len(people) :])
        settled = [each for each in used(running, len(people) + 4) if each["user"] in CAUSES]
        assert sorted(each["user"] for each in settled if each["stream"]) == sorted(CAUSES)
        assert {each["status"] for each in settled} <= {401, 403}
        assert all(each["completion_tokens"] > 0 for each in settled)


def used(running: Running, count: int) -> list[dict[str, Any]]:
    """The calls in the ledger, once there are so many."""
    end = time.monotonic() + 10
    while len(found := running.get("/usage/requests?limit=100").json()["requests"]) < count:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return list(found)


def test_a_stream_outlives_its_access_token_but_not_its_session(upstreams: Callable[..., Running]) -> None:
    with Upstream() as up:
        running = upstreams(up, auth={"access_token_ttl": "2s"})
        up.stream(EVENTS, hang_after=1)
        her = Person(running, "ann", by_key=False)
        her.open("/v1/chat/completions")
        while running.get("/auth/me", key=her.token).status_code != 401:
            time.sleep(0.1)
        Person(running, "bob")  # rights change, but not hers
        assert not up.requests[0].closed.wait(1)
        her.change(password="another password of hers")
        assert b'"rights_revoked"' in her.rest()


def test_a_right_that_is_lost_while_the_body_comes_is_lost_for_the_stream(upstreams: Callable[..., Running]) -> None:
    with Upstream() as up:
        running = upstreams(up)
        up.stream(EVENTS, hang_after=1)
        her = Person(running, "ann")
        body = json.dumps({"model": "bench", "stream": True, **SURFACES["/v1/chat/completions"]}).encode()
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {her.credential}\r\n"
            sock.sendall(head.encode() + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:9])
            time.sleep(0.3)  # its head is read
            revoke(her)
            sock.sendall(body[9:])
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert b'"rights_revoked"' in answer or answer.startswith(b"HTTP/1.1 401"), answer
