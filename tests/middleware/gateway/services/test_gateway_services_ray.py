"""The gateway's services as Ray actors: the same answers over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import requests
from running_gateway import Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("SAGE_TEST_FULL"), reason="starts Ray for itself; make check-full runs it"),
]


def test_the_services_run_as_actors(gateway: Callable[..., Running]) -> None:
    running = gateway(services={"runtime": "ray", "timeout": "60s", "memory": {"embedder": "none"}})
    one, two = running.new_key(tenant="one"), running.new_key(tenant="two")

    def put(key: str) -> requests.Response:
        headers = running.headers(key)
        return requests.put(f"{running.url}/kv/a/b", json={"value": {"x": [1]}}, headers=headers, timeout=120)

    assert put(one).status_code == 200, put(one).text
    assert running.get("/kv/a/b", key=one).json()["value"] == {"x": [1]}
    assert running.get("/kv/a/b", key=two).status_code == 404
    body = {"session_id": "s", "content": "I drink tea."}
    assert running.post("/memory", body, key=one, timeout=120).status_code == 200
    memories = running.post("/memory/search", {"query": "tea"}, key=one).json()["results"]
    assert [memory["content"] for memory in memories] == ["I drink tea."]
    bad = running.post("/vdb/notes", {"items": [{"id": 5, "vector": [1.0]}]}, key=one, timeout=120)
    assert (bad.status_code, bad.json()["error"]["type"]) == (400, "invalid_request_error")
    states = {service["name"]: service["state"] for service in running.get("/services").json()["services"]}
    assert states == {"kv_service": "running", "vdb_service": "running", "memory_service": "running"}


def test_what_ray_cannot_reach_is_said(gateway: Callable[..., Running]) -> None:
    running = gateway(services={"runtime": "ray", "memory": {"embedder": "openai/text-embedding-3-small"}})
    answer = running.post("/memory/search", {"query": "tea"})
    assert answer.status_code == 503
    assert "services.memory.embedder" in answer.json()["error"]["message"]
