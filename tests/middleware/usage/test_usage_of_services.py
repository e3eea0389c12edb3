"""What the memory service, the vector service and collections ask of models is the caller's: its usage, its limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running_gateway import PASSWORD, Running
from upstream import Received, Script, Upstream, openai_like, reply

from sage.middleware.auth.grants import KeyRequest
from sage.middleware.auth.principal import ROLES


def embeddings(request: Received) -> Script:
    if not request.path.endswith("/embeddings"):
        return openai_like(request)
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), 1.0]}
        for index, text in enumerate(request.body["input"])
    ]
    return reply({"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}})


@pytest.fixture
def running(upstreams: Callable[..., Running]) -> Iterator[Running]:
    with Upstream() as up:
        up.handler = embeddings
        memory = {"embedder": "bench", "facts_model": "talk", "summary_model": "talk", "summary_after": 2}
        models = {name: {"deployments": [{"provider": "up0", "model": name}]} for name in ("bench", "talk")}
        services = {"memory": memory, "vdb": {"embedder": "bench"}}
        yield upstreams(up, llm={"models": models}, services=services, retrieval={"defaults": {"embedder": "bench"}})


def user(running: Running, name: str, tenant: str) -> str:
    assert running.accounts is not None
    running.accounts.users.add(name, PASSWORD, "user", tenant)
    return running.accounts.keys.create_for(name, KeyRequest(scopes=sorted(ROLES["user"]), tags=["night"])).secret


def calls(running: Running, count: int, user: str | None = None) -> list[tuple[str, str, str]]:
    """User, tenant and model of the calls in the ledger, of all users or of one, the first to end first, once there
    are so many. What memories are made of is asked for later than the request is answered."""
    end = time.monotonic() + 20
    path = "/usage/requests?limit=100" if user is None else f"/usage/requests?limit=100&user={user}"
    while len(rows := running.get(path).json()["requests"]) < count and time.monotonic() < end:
        time.sleep(0.05)
    assert all(row["tags"] == ["night"] for row in rows)
    return [(row["user"], row["tenant"], row["model"]) for row in reversed(rows)]


def test_the_services_ask_models_in_the_name_of_their_caller(running: Running) -> None:
    ann, bob = user(running, "ann", "acme"), user(running, "bob", "other")

    asked = set()

    def post(key: str, path: str, body: Any) -> None:
        answer = running.post(path, body, key=key)
        assert answer.status_code in (200, 201), answer.text
        asked.add(answer.headers["x-request-id"])

    for number in range(2):  # each is embedded, facts are made of each, and of two a summary
        post(ann, "/memory", {"session_id": "s", "content": f"I like tea {number}."})
    after = len(calls(running, 5))
    post(ann, "/vdb/things", {"items": [{"id": "1", "text": "a thing"}]})
    post(ann, "/vdb/things/search", {"text": "thing"})
    of_services = calls(running, after + 2)
    assert set(of_services) == {("ann", "acme", "bench"), ("ann", "acme", "talk")}
    post(bob, "/collections", {"name": "notes"})
    post(bob, "/collections/notes/documents", {"documents": [{"id": "1", "text": "note"}]})
    post(bob, "/search", {"collection": "notes", "query": "another"})
    later = calls(running, 2, "bob")
    assert len(later) >= 2
    named = {row["id"] for row in running.get("/usage/requests?limit=100").json()["requests"]}
    assert named <= asked
    assert len(named) >= 5  # memories with what is made of them, items and searches
    assert set(later) == {("bob", "other", "bench")}


def test_a_budget_of_the_caller_holds_what_the_memory_service_asks(running: Running) -> None:
    ann = user(running, "ann", "acme")
    assert running.request("PUT", "/budgets/user/ann", json={"tokens": 1}).status_code == 200
    refused = running.post("/memory", {"session_id": "s", "content": "I like tea."}, key=ann)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
    bob = user(running, "bob", "acme")
    assert running.post("/memory", {"session_id": "s", "content": "I like tea."}, key=bob).status_code == 200
