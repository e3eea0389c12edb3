"""``/memory`` over HTTP: stored, found, corrected, forgotten; each tenant its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import requests
from running_gateway import Running

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway(services={"memory": {"embedder": "none"}})


def store(running: Running, content: str, session: str = "s1", key: str | None = None, **fields: Any) -> str:
    answer = running.post("/memory", {"session_id": session, "content": content, **fields}, key=key)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def search(running: Running, query: str, key: str | None = None, **fields: Any) -> list[dict[str, Any]]:
    answer = running.post("/memory/search", {"query": query, **fields}, key=key)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"])


def delete(running: Running, path: str, key: str | None = None) -> requests.Response:
    return requests.delete(f"{running.url}/memory/{path}", headers=running.headers(key), timeout=30)


def error(answer: requests.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def test_everything_of_a_user_is_forgotten(running: Running) -> None:
    for session in ("s1", "s2", "s3"):
        store(running, f"Mei was at {session}.", session=session, user="mei")
    store(running, "Mei has an agent.", user="mei", agent="a")
    store(running, "Nobody's tea.")
    assert error(delete(running, ""))["param"] == "user"
    forgotten = running.request("DELETE", "/memory?user=mei")
    assert forgotten.json() == {"sessions": 3, "deleted": 3}
    assert running.get("/memory/sessions?user=mei").json()["sessions"] == []
    assert [each["content"] for each in search(running, "tea")] == ["Nobody's tea."]
    assert [each["content"] for each in search(running, "agent", user="mei", agent="a")] == ["Mei has an agent."]


def test_a_memory_is_stored_found_shown_and_forgotten(running: Running) -> None:
    tea = store(running, "I prefer tea to coffee.", metadata={"mood": "calm"})
    store(running, "The train leaves at nine.", session="s2", memory_type="fact")
    (memory,) = search(running, "tea", limit=1)
    assert {"id", "session_id", "content", "memory_type", "metadata", "score", "created_at"} <= set(memory)
    assert not {"timestamp", "similarity_score"} & set(memory), "these are names for programs of upstream SAGE only"
    assert (memory["id"], memory["session_id"], memory["content"]) == (tea, "s1", "I prefer tea to coffee.")
    assert (memory["memory_type"], memory["metadata"]) == ("conversation", {"mood": "calm"})
    assert abs(memory["created_at"] - time.time()) < 60
    assert [memory["session_id"] for memory in search(running, "train", memory_type="fact")] == ["s2"]
    assert search(running, "train", session_id="s1") == [] or search(running, "train", session_id="s1")[0]["id"] == tea
    assert running.get(f"/memory/{tea}").json()["content"] == "I prefer tea to coffee."
    assert delete(running, tea).json() == {"deleted": True}
    error(running.get(f"/memory/{tea}"), 404)
    assert [memory["id"] for memory in search(running, "tea coffee")].count(tea) == 0


def test_the_same_text_twice_adds_nothing(running: Running) -> None:
    first = store(running, "I prefer tea to coffee.")
    assert store(running, "I  prefer tea to coffee. ") == first
    once = {"Idempotency-Key": "once"}
    body = {"session_id": "s1", "content": "A"}
    ids = {running.post("/memory", body, headers=once).json()["id"] for _ in range(2)}
    assert len(ids) == 1


def test_a_correction_supersedes_and_keeps_both(running: Running) -> None:
    old = store(running, "The meeting is on Monday.")
    new = store(running, "The meeting is on Tuesday.", supersedes=old)
    assert [memory["id"] for memory in search(running, "meeting")] == [new]
    history = running.get(f"/memory/{new}/history").json()["history"]
    assert [memory["id"] for memory in history] == [old, new]
    restored = running.post(f"/memory/{old}/restore").json()["id"]
    (memory,) = search(running, "meeting")
    assert (memory["id"], memory["content"]) == (restored, "The meeting is on Monday.")


def test_sessions_are_listed_shown_and_cleared(running: Running) -> None:
    for turn in range(3):
        store(running, f"turn {turn}", session="team/a")
    store(running, "else", session="b")
    listed = running.get("/memory/sessions").json()
    assert sorted(session["session_id"] for session in listed["sessions"]) == ["b", "team/a"]
    first = running.get("/memory/sessions", params={"limit": 1}).json()
    second = running.get("/memory/sessions", params={"limit": 1, "after": first["next"]}).json()
    both = [page["sessions"][0]["session_id"] for page in (first, second)]
    assert (sorted(both), second["next"]) == (["b", "team/a"], None)
    shown = running.get("/memory/sessions/team/a").json()
    assert [memory["content"] for memory in shown["memories"]] == ["turn 0", "turn 1", "turn 2"]
    page = running.get(f"/memory/sessions/{quote('team/a', safe='')}", params={"limit": 2}).json()
    rest = running.get("/memory/sessions/team/a", params={"limit": 2, "after": page["next"]}).json()
    assert [memory["content"] for memory in page["memories"] + rest["memories"]] == ["turn 0", "turn 1", "turn 2"]
    assert rest["next"] is None
    assert delete(running, "sessions/team/a").json() == {"deleted": 3}
    error(running.get("/memory/sessions/team/a"), 404)
    assert [session["session_id"] for session in running.get("/memory/sessions").json()["sessions"]] == ["b"]
    error(delete(running, "sessions/"))


@pytest.mark.slow
def test_a_memory_with_a_time_is_forgotten_when_it_is_over(running: Running) -> None:
    store(running, "brief tea", ttl=1)
    lasting = store(running, "lasting tea")
    while len(search(running, "tea")) > 1:
        time.sleep(0.05)
    assert [memory["id"] for memory in search(running, "tea")] == [lasting]


BAD: list[tuple[str, Any, str]] = [
    ("/memory", {"content": "x"}, "session_id"),
    ("/memory", {"session_id": "s", "content": ""}, "content"),
    ("/memory", {"session_id": "", "content": "x"}, "session_id"),
    ("/memory", {"session_id": "s", "content": "x", "type": "fact"}, "type"),
    ("/memory", {"session_id": "s", "content": "x", "ttl": 0}, "ttl"),
    ("/memory", {"session_id": "s", "content": "x", "tenant": "two"}, "tenant"),
    ("/memory", {"session_id": "s", "content": "x" * (2**20 + 1)}, "content"),
    ("/memory/search", {}, "query"),
    ("/memory/search", {"query": "x", "limit": 0}, "limit"),
    ("/memory/search", {"query": "x", "limit": 1001}, "limit"),
    ("/memory/search", {"query": "x", "tenant": "two"}, "tenant"),
    ("/memory/search", {"query": "x", "diversity": 2}, "diversity"),
]


def test_bad_bodies_name_their_field(running: Running) -> None:
    for path, body, param in BAD:
        assert error(running.post(path, body))["param"] == param, param
    assert running.get("/memory/sessions").json()["sessions"] == []


def test_unknown_memories_are_not_found(running: Running) -> None:
    error(running.get("/memory/none"), 404)
    error(running.get("/memory/none/history"), 404)
    error(running.post("/memory/none/restore"), 404)
    error(running.get("/memory/sessions/none"), 404)
    error(running.post("/memory", {"session_id": "s", "content": "x", "supersedes": "none"}), 404)
    assert delete(running, "none").json() == {"deleted": False}
    error(running.post("/memory/search", {"query": "x", "filter": {"a": {"$near": 1}}}))


def test_a_reranker_is_within_the_callers_models(running: Running) -> None:
    key = running.new_key(scopes=["memory"], models=["only"])
    refusal = error(running.post("/memory/search", {"query": "x", "rerank": "other"}, key=key), 403)
    assert refusal["code"] == "model_not_allowed"


def test_tenants_never_meet(running: Running) -> None:
    one, two = running.new_key(tenant="one"), running.new_key(tenant="two")
    own = store(running, "the tea of one", key=one)
    store(running, "the tea of two", key=two)
    assert [memory["content"] for memory in search(running, "tea", key=one)] == ["the tea of one"]
    for path in (f"/memory/{own}", f"/memory/{own}/history"):
        error(running.get(path, key=two), 404)
    error(running.post(f"/memory/{own}/restore", key=two), 404)
    error(running.post("/memory", {"session_id": "s1", "content": "x", "supersedes": own}, key=two), 404)
    assert delete(running, own, key=two).json() == {"deleted": False}
    assert delete(running, "sessions/s1", key=two).json() == {"deleted": 1}
    assert [memory["id"] for memory in search(running, "tea", key=one)] == [own]
    assert search(running, "tea") == []


def test_users_and_agents_have_memories_of_their_own(running: Running) -> None:
    anns = store(running, "Ann drinks tea", user="ann")
    bobs = store(running, "Bob drinks tea", user="bob", agent="cook")
    assert [memory["id"] for memory in search(running, "tea", user="ann")] == [anns]
    assert [memory["id"] for memory in search(running, "tea", user="bob", agent="cook")] == [bobs]
    error(running.get(f"/memory/{anns}", params={"user": "bob"}), 404)
    assert running.get(f"/memory/{anns}", params={"user": "ann"}).status_code == 200
    assert delete(running, f"{anns}?user=bob").json() == {"deleted": False}


def test_it_needs_its_scope(running: Running) -> None:
    key = running.new_key(scopes=["kv"])
    assert error(running.post("/memory/search", {"query": "x"}, key=key), 403)["code"] == "missing_scope"
