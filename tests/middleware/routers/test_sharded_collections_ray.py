"""Sharded collections over Ray actors, through HTTP: the answers of one store, a shard that dies, a restart."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sage_process import Serving, children, environment, serving
from test_sharded_collections_http import PAIR, SEARCHES, documents

pytestmark = pytest.mark.slow
SECONDS = 120
CONFIG = {
    "services": {"runtime": "ray", "timeout": "60s", "vdb": {"shards": 2}},
    "retrieval": {"defaults": {"embedder": "none"}},
}
OPTIONS = ["--no-auth", "--config", "config.json", "--port", "0"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sharded")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


@pytest.fixture(scope="module")
def served(directory: Path) -> Iterator[Serving]:
    with serving(OPTIONS, environment(directory / "data"), directory, 60) as gateway:
        for name, shards in zip(PAIR, (0, 2), strict=True):
            assert post(gateway, "/collections", {"name": name, "shards": shards})["shards"] == (shards or None)
            assert post(gateway, f"/collections/{name}/documents", {"documents": documents()})["inserted"] == 120
        yield gateway


def post(gateway: Serving, path: str, body: Any) -> dict[str, Any]:
    answer = requests.post(gateway.url + path, json=body, timeout=SECONDS)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def get(gateway: Serving, path: str) -> dict[str, Any]:
    answer = requests.get(gateway.url + path, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def actors(gateway: Serving) -> list[int]:
    return [
        pid for pid in children(gateway.process.pid) if b"ServiceActor" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def check_same(gateway: Serving) -> None:
    for search in SEARCHES:
        one, many = (post(gateway, "/search", {**search, "collection": name}) for name in PAIR)
        assert [result["id"] for result in many["results"]] == [result["id"] for result in one["results"]]
        assert [result["score"] for result in many["results"]] == pytest.approx([r["score"] for r in one["results"]])
        assert many["total"] == one["total"]


def test_the_answers_are_those_of_one_store(served: Serving) -> None:
    assert len(actors(served)) == 2
    check_same(served)
    one, many = (get(served, f"/collections/{name}/documents?limit=1000") for name in PAIR)
    assert many == one
    one, many = (post(served, f"/collections/{name}/documents/delete", {"filter": {"n": 2}}) for name in PAIR)
    assert many == one == {"deleted": 30}
    check_same(served)


def test_a_snapshot_crosses_the_actors(served: Serving) -> None:
    snapshot = requests.get(f"{served.url}/collections/many/snapshot", timeout=SECONDS).content
    headers = {"Content-Type": "application/octet-stream"}
    url = f"{served.url}/collections/copy/snapshot?shards=0"
    made = requests.put(url, data=snapshot, headers=headers, timeout=SECONDS)
    assert (made.status_code, made.json()["documents"]) == (201, 90), made.text
    one, copy = (get(served, f"/collections/{name}/documents?limit=1000")["documents"] for name in ("one", "copy"))
    assert copy == one


def test_a_shard_that_dies_comes_back_with_what_was_acknowledged(served: Serving) -> None:
    before = get(served, "/collections/many/documents?limit=1000")
    os.kill(actors(served)[0], signal.SIGKILL)
    deadline = time.monotonic() + SECONDS
    refused: list[dict[str, Any]] = []
    while True:
        answer = requests.post(f"{served.url}/search", json={"query": "amber", "collection": "many"}, timeout=SECONDS)
        if answer.status_code == 200 and len(actors(served)) == 2:
            break
        if answer.status_code != 200:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            refused.append(answer.json()["error"])
        assert time.monotonic() < deadline
    assert {error["code"] for error in refused} <= {"shard_unavailable"}
    assert all("collection 'many': shard" in error["message"] for error in refused)
    assert get(served, "/collections/many/documents?limit=1000") == before
    check_same(served)


def test_a_vector_service_in_an_actor_has_shards_that_are_actors(served: Serving) -> None:
    before = len(actors(served))
    items = [{"id": f"v{n}", "vector": [1.0, n], "metadata": {"n": n % 2}} for n in range(20)]
    assert len(post(served, "/vdb/notes", {"items": items})["ids"]) == 20
    assert len(actors(served)) == before + 3
    results = post(served, "/vdb/notes/search", {"vector": [1.0, 0.1], "n_results": 2, "where": {"n": 0}})["results"]
    assert [item["id"] for item in results] == ["v0", "v2"]
    assert len(get(served, "/vdb/notes")["items"]) == 20


def test_a_restarted_gateway_finds_them_with_or_without_ray(tmp_path: Path) -> None:
    """Made without Ray, found and added to with it, and found without it again."""
    found: list[Any] = []
    for number, services in enumerate(({}, CONFIG["services"], {})):
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "services": services}))
        with serving(OPTIONS, environment(tmp_path / "data"), tmp_path, 60) as gateway:
            if number == 0:
                post(gateway, "/collections", {"name": "many", "shards": 2})
            else:
                listed = get(gateway, "/collections")["collections"]
                assert [(c["name"], c["shards"]) for c in listed] == [("many", 2)]
                assert post(gateway, "/search", {**SEARCHES[0], "collection": "many"})["results"] == found[-1]
            more = [{**document, "id": f"{document['id']}-{number}"} for document in documents()]
            assert post(gateway, "/collections/many/documents", {"documents": more})["inserted"] == 120
            found.append(post(gateway, "/search", {**SEARCHES[0], "collection": "many"})["results"])
    assert len({result["id"].rpartition("-")[2] for results in found for result in results}) == 3
    assert list((tmp_path / "data" / "collections").glob("*/.shards-*"))
