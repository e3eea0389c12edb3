"""``/collections/{collection}/documents`` over HTTP: in, out, and all or nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import requests
from running_gateway import Running

pytestmark = pytest.mark.slow

KEYWORDS = {"defaults": {"embedder": "none"}}


@pytest.fixture
def running(gateway: Callable[..., Running]) -> Running:
    return gateway(retrieval=KEYWORDS)


def add(running: Running, *documents: Any, to: str = "default", **options: Any) -> requests.Response:
    return running.post(f"/collections/{quote(to)}/documents", {"documents": list(documents)}, **options)


def lines(running: Running, body: bytes | str, to: str = "default") -> requests.Response:
    data = body.encode() if isinstance(body, str) else body
    return requests.post(
        f"{running.url}/collections/{to}/documents",
        data=data,
        headers={**running.headers(), "Content-Type": "application/x-ndjson; charset=utf-8"},
        timeout=30,
    )


def listed(running: Running, to: str = "default", **query: Any) -> list[dict[str, Any]]:
    answer = running.get(f"/collections/{to}/documents", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["documents"])


def error(answer: requests.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def test_an_id_may_be_any_text(running: Running) -> None:
    ids = ["a\n", "a", "\nb\n\n", "a/b", "delete", " ", "茶"]
    assert add(running, *({"id": id, "text": f"text of {id}"} for id in ids)).status_code == 200
    for id in ids:
        answer = running.get(f"/collections/default/documents/{quote(id, safe='')}")
        assert (answer.status_code, answer.json()["id"]) == (200, id)
    url = f"{running.url}/collections/default/documents/{quote(ids[0], safe='')}"
    assert requests.delete(url, headers=running.headers(), timeout=30).status_code == 204
    assert sorted(document["id"] for document in listed(running)) == sorted(ids[1:])


def test_documents_go_in_and_come_out(running: Running) -> None:
    first = {"id": "a/b c", "text": "斜线 and a space", "metadata": {"n": 1, "deep": {"x": [1, None, "y"]}}}
    answer = add(running, first, {"text": "without an id"})
    assert answer.status_code == 200, answer.text
    written = answer.json()
    assert (written["inserted"], written["updated"], written["ids"][0], len(written["ids"])) == (2, 0, "a/b c", 2)
    for path in ("/collections/default/documents/a/b%20c", "/collections/default/documents/a%2Fb%20c"):
        assert running.get(path).json() == first
    again = add(running, {"id": "a/b c", "text": "new"}).json()
    assert again == {"ids": ["a/b c"], "inserted": 0, "updated": 1}
    assert running.get("/collections/default/documents/a/b%20c").json() == {
        "id": "a/b c",
        "text": "new",
        "metadata": {},
    }
    assert [document["id"] for document in listed(running)] == [written["ids"][1], "a/b c"]


def test_vectors_come_when_asked_for(running: Running) -> None:
    add(running, {"id": "v", "text": "x", "vector": [1, 0.5, -2]}, {"id": "w", "text": "y"})
    assert "vector" not in running.get("/collections/default/documents/v").json()
    assert running.get("/collections/default/documents/v?vector=true").json()["vector"] == [1.0, 0.5, -2.0]
    assert running.get("/collections/default/documents/w?vector=true").json()["vector"] is None
    assert "3" in error(add(running, {"text": "z", "vector": [1, 2]}))["message"]


def test_lines_are_documents(running: Running) -> None:
    body = '{"id": "1", "text": "one"}\r\n\n  {"id": "2", "text": "two", "metadata": {"k": "v"}}\n'
    assert lines(running, body).json() == {"ids": ["1", "2"], "inserted": 2, "updated": 0}
    assert [document["text"] for document in listed(running)] == ["one", "two"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"text": "a"}\n\n{"text": }', "line 3 is not JSON"),
        ('{"text": "a"}\n["b"]', "line 2 must be a JSON object"),
        ('{"text": "a"}\n\n{"txt": "b"}', "line 3: unknown field 'txt'"),
        ('{"text": "a"}\n{"text": 5}', "line 2: 'text' must be text"),
        ('{"text": "a", "metadata": {"n": 123456789012345678901}}', "line 1: the number 123456789012345678901"),
        ('{"text": "a", "metadata": {"n": NaN}}', "line 1 is not JSON"),
        ('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}', "line 2: the id 'x' stands twice"),
        ('{"text": "a"}\n{"text": "b"}\n\n{"text": "c"}\n{"text": "d"}', "line 5: one request may carry 3"),
        ("\n\n", "'documents' is empty"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(gateway: Callable[..., Running], body: str, reason: str) -> None:
    running = gateway(retrieval={**KEYWORDS, "limits": {"max_documents": 3}})
    refusal = error(lines(running, body))
    assert refusal["message"].startswith(reason)
    assert refusal["param"] == "documents"
    assert running.get("/collections").json() == {"collections": []}


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({}, "documents", "must be a list"),
        ({"documents": {}}, "documents", "must be a list"),
        ({"documents": []}, "documents", "empty"),
        ({"documents": ["x"]}, "documents", "documents[0]"),
        ({"documents": [{"text": "a"}, {"text": None}]}, "documents", "documents[1]"),
        ({"documents": [{"text": "a", "id": ""}]}, "documents", "'id'"),
        ({"documents": [{"text": "a", "id": 5}]}, "documents", "'id'"),
        ({"documents": [{"text": "a", "metadata": []}]}, "documents", "'metadata'"),
        ({"documents": [{"text": "a", "vector": ["1"]}]}, "documents", "'vector'"),
        ({"documents": [{"text": "a", "vector": [True, False]}]}, "documents", "'vector'"),
        ({"documents": [{"text": "a", "vector": [1e39]}]}, "documents", "not finite"),
        ({"documents": [{"text": "a"}], "more": 1}, "more", "unknown field"),
    ],
)
def test_bad_documents_name_their_place(running: Running, body: dict[str, Any], param: str | None, reason: str) -> None:
    refusal = error(running.post("/collections/default/documents", body))
    assert refusal["param"] == param
    assert reason in refusal["message"]
    assert running.get("/collections").json() == {"collections": []}


def test_all_or_nothing(running: Running) -> None:
    add(running, {"id": "1", "text": "first"})
    assert add(running, {"id": "1", "text": "changed"}, {"id": "2"}).status_code == 400
    assert [document["text"] for document in listed(running)] == ["first"]


def test_a_first_write_that_fails_leaves_no_collection(gateway: Callable[..., Running]) -> None:
    running = gateway(retrieval={"defaults": {"embedder": "none", "dimension": 3}})
    refused = add(running, {"text": "one"}, {"text": "two", "vector": [1, 2]})
    assert error(refused)["code"] == "wrong_dimension"
    assert running.get("/collections").json() == {"collections": []}
    assert add(running, {"id": "1", "text": "one"}).json() == {"ids": ["1"], "inserted": 1, "updated": 0}
    (listed,) = running.get("/collections").json()["collections"]
    assert (listed["name"], listed["documents"], listed["dimension"]) == ("default", 1, 3)


def test_pages_go_through_all_documents(running: Running) -> None:
    add(running, *({"id": f"d{n}", "text": f"t{n}", "metadata": {"even": n % 2 == 0}} for n in range(25)))
    for condition in (None, {"even": True}):
        query: dict[str, Any] = {"limit": 4} | ({"filter": json.dumps(condition)} if condition else {})
        ids, cursor = [], ""
        while cursor is not None:
            page = running.get("/collections/default/documents", params=query).json()
            ids += [document["id"] for document in page["documents"]]
            cursor = query["cursor"] = page["cursor"]
        assert ids == [f"d{n}" for n in range(25) if condition is None or n % 2 == 0]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"filter": "{"}, "filter"),
        ({"filter": "[]"}, "filter"),
        ({"filter": '{"a": {"$no": 1}}'}, "filter"),
    ],
)
def test_bad_pages_name_their_field(running: Running, query: dict[str, Any], param: str) -> None:
    add(running, {"text": "x"})
    assert error(running.get("/collections/default/documents", params=query))["param"].partition(".")[0] == param


def test_deleting(running: Running) -> None:
    add(running, *({"id": f"d/{n}", "text": "x", "metadata": {"n": n}} for n in range(6)))
    path = "/collections/default/documents"
    assert requests.delete(f"{running.url}{path}/d/0", headers=running.headers(), timeout=30).status_code == 204
    gone = requests.delete(f"{running.url}{path}/d/0", headers=running.headers(), timeout=30)
    assert error(gone, 404)["code"] == "document_not_found"
    assert error(running.get(f"{path}/d/0"), 404)["code"] == "document_not_found"
    assert running.post(f"{path}/delete", {"ids": ["d/1", "d/1", "nope"]}).json() == {"deleted": 1}
    assert running.post(f"{path}/delete", {"filter": {"n": {"$gte": 4}}}).json() == {"deleted": 2}
    assert [document["id"] for document in listed(running)] == ["d/2", "d/3"]
    for body, param in (
        ({}, "ids"),
        ({"ids": []}, "ids"),
        ({"ids": [1]}, "ids.0"),
        ({"ids": ["a"], "filter": {}}, "ids"),
        ({"filter": {}}, "filter"),
        ({"id": "a"}, "id"),
    ):
        assert error(running.post(f"{path}/delete", body))["param"] == param, body
    assert len(listed(running)) == 2


def test_what_is_written_is_found_at_once_by_many(running: Running) -> None:
    missed: list[str] = []

    def write(number: int) -> None:
        for turn in range(10):
            word = f"word{number}x{turn}"
            assert add(running, {"id": word, "text": f"the {word} here"}).status_code == 200
            results = running.post("/search", {"query": word, "mode": "bm25"}).json()["results"]
            if [result["id"] for result in results] != [word]:
                missed.append(word)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert missed == []
    assert running.get("/collections/default").json()["documents"] == 60


def test_a_body_too_large_is_refused(gateway: Callable[..., Running]) -> None:
    running = gateway(retrieval=KEYWORDS, api={"max_body_bytes": 2000})
    assert error(add(running, {"text": "x" * 3000}), 413)["code"] == "payload_too_large"
    small = gateway(retrieval={**KEYWORDS, "limits": {"max_text": 100}})
    assert "max_text" in error(add(small, {"text": "x" * 101}))["message"]


def test_documents_are_the_tenants_own(running: Running) -> None:
    add(running, {"id": "mine", "text": "secret"})
    other = running.new_key(tenant="other", scopes=["search", "collections:write"])
    path = "/collections/default/documents"
    assert error(running.get(f"{path}/mine", key=other), 404)["code"] == "collection_not_found"
    assert running.get("/collections", key=other).json() == {"collections": []}
    add(running, {"id": "theirs", "text": "secret"}, key=other)
    assert [result["id"] for result in running.post("/search", {"query": "secret"}, key=other).json()["results"]] == [
        "theirs"
    ]
    assert [document["id"] for document in listed(running)] == ["mine"]


def test_reading_and_writing_are_scopes_of_their_own(running: Running) -> None:
    add(running, {"id": "1", "text": "x"})
    reader = running.new_key(scopes=["search"])
    writer = running.new_key(scopes=["collections:write"])
    assert running.get("/collections/default/documents/1", key=reader).status_code == 200
    assert error(add(running, {"text": "y"}, key=reader), 403)["code"] == "missing_scope"
    assert add(running, {"text": "y"}, key=writer).status_code == 200
    assert error(running.get("/collections/default/documents/1", key=writer), 403)["code"] == "missing_scope"
