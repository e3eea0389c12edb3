"""Responses that are kept: continued, read, listed, deleted, forgotten; and what is never kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from response_oracle import check_events, check_response, events_of
from running_gateway import Running
from upstream import Upstream

from sage.errors import Conflict, NotFound
from sage.middleware.app.workers.elsewhere import OfTheOwner
from sage.middleware.auth.principal import LOCAL
from sage.middleware.gateway.elsewhere import Elsewhere
from sage.middleware.responses.database import SCHEMA, open_responses_database
from sage.middleware.responses.kept import NewResponse
from sage.middleware.responses.store import ResponseStore
from sage.middleware.routers.openai.responses.recall import keeper
from sage.middleware.routers.openai.responses.request import ResponsesRequest

_SECRET = "a very private question about marmots"


def create(running: Running, input: Any, key: str | None = None, **fields: Any) -> dict[str, Any]:
    answer = running.post("/v1/responses", {"model": "bench", "input": input, **fields}, key=key)
    assert answer.status_code == 200, answer.text
    return check_response(events_of(answer.content)[-1]["response"] if fields.get("stream") else answer.json())


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_continued_read_listed_and_deleted(running: Running, up: Upstream, stream: bool) -> None:
    first = create(running, "one", instructions="Be brief.", stream=stream)
    second = create(
        running,
        [{"role": "user", "content": [{"type": "input_text", "text": "two"}]}, {"role": "user", "content": "three"}],
        previous_response_id=first["id"],
        stream=stream,
    )
    assert second["previous_response_id"] == first["id"]
    assert up.requests[-1].body["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    third = create(running, "four", previous_response_id=second["id"], stream=stream)
    assert [message["content"] for message in up.requests[-1].body["messages"]] == [
        *("one", "one", "two", "three", "three", "four")
    ]
    path = f"/v1/responses/{second['id']}"
    assert check_response(running.get(path).json()) == second
    page = running.get(f"{path}/input_items?limit=1").json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["three"]
    assert (page["has_more"], page["first_id"]) == (True, page["data"][0]["id"])
    rest = running.get(f"{path}/input_items?limit=5&after={page['last_id']}").json()
    assert ([item["content"] for item in rest["data"]], rest["has_more"]) == (
        [[{"type": "input_text", "text": "two"}]],
        False,
    )
    oldest = running.get(f"{path}/input_items?order=asc").json()["data"]
    assert oldest == [*rest["data"], *page["data"]]
    assert running.request("DELETE", path).json() == {"id": second["id"], "object": "response", "deleted": True}
    for method, place in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items"), ("POST", f"{path}/cancel")):
        assert running.request(method, place).status_code == 404
    gone = running.post("/v1/responses", {"model": "bench", "input": "x", "previous_response_id": third["id"]})
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "previous_response_not_found"
    assert running.post(f"/v1/responses/{first['id']}/cancel").status_code == 409


def test_items_are_referred_to_by_their_ids(running: Running, up: Upstream) -> None:
    first = create(running, "one")
    (message,) = first["output"]
    reference: dict[str, Any] = {"type": "item_reference", "id": message["id"]}
    for item in (reference, {"id": message["id"]}):
        create(running, [{"role": "user", "content": "one"}, item, {"role": "user", "content": "two"}])
        assert up.requests[-1].body["messages"][1] == {"role": "assistant", "content": "one"}


def test_no_other_team_reaches_a_response(running: Running, up: Upstream) -> None:
    assert running.accounts is not None
    running.accounts.teams.add("others")
    theirs = running.new_key(tenant="others")
    response = create(running, "ours")
    path = f"/v1/responses/{response['id']}"
    for method, place in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items"), ("POST", f"{path}/cancel")):
        assert running.request(method, place, key=theirs).status_code == 404
    count = len(up.requests)
    for body in (
        {"input": "x", "previous_response_id": response["id"]},
        {"input": [{"type": "item_reference", "id": response["output"][0]["id"]}]},
    ):
        refused = running.post("/v1/responses", {"model": "bench", **body}, key=theirs)
        assert refused.status_code in (400, 404)
    assert len(up.requests) == count
    assert running.get(path).status_code == 200
    assert create(running, "x", key=theirs)["status"] == "completed"


def test_store_false_leaves_nothing_behind(running: Running) -> None:
    data_dir = running.settings.data_dir
    for stream in (False, True):
        response = create(running, _SECRET, store=False, stream=stream, prompt_cache_key="k")
        assert response["store"] is False
        assert running.get(f"/v1/responses/{response['id']}").status_code == 404
    assert not _files_with(data_dir, _SECRET)
    create(running, _SECRET)
    assert _files_with(data_dir, _SECRET)  # so it would have been seen


def _files_with(directory: Path, text: str) -> list[Path]:
    return [file for file in directory.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def test_who_is_forgotten_has_no_responses_left(running: Running) -> None:
    response = create(running, "mine")
    erased = running.request("DELETE", "/usage?user=root")
    assert erased.status_code == 200
    assert running.get(f"/v1/responses/{response['id']}").status_code == 404


def test_streams_are_whole_before_the_response_can_be_read(running: Running) -> None:
    answer = running.post("/v1/responses", {"model": "bench", "input": "now", "stream": True}, stream=True)
    body = b""
    for piece in answer.iter_content(None):
        body += piece
        if b"event: response.completed" in body:
            break
    response = check_events(events_of(body))
    assert running.get(f"/v1/responses/{response['id']}").json() == response


def _new(name: str, previous: str | None = None, status: str = "completed", user: str = "u") -> NewResponse:
    message = {
        "id": f"msg_{name}",
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": name}],
    }
    body = {"id": name, "status": status, "previous_response_id": previous, "output": []}
    return NewResponse("team", user, body, [message])


@pytest.mark.both_databases
def test_the_store_on_both_databases(tmp_path: Path, database_url: Any) -> None:
    database = open_responses_database(tmp_path, database_url)
    now = [1000.0]
    store = ResponseStore(database, 100.0, clock=lambda: now[0])
    try:
        store.add(_new("resp_a"))
        now[0] += 60
        store.add(_new("resp_b", "resp_a", "queued"))
        assert [item["id"] for item in store.conversation("team", "resp_a")] == ["msg_resp_a"]
        with pytest.raises(Conflict):
            store.conversation("team", "resp_b")
        with pytest.raises(NotFound):
            store.get("other", "resp_a")
        done = {"id": "resp_b", "status": "completed", "previous_response_id": "resp_a"}
        assert store.change("resp_b", {**done, "output": [{"id": "msg_o", "type": "message"}]})
        assert not store.change("resp_b", {**done, "status": "cancelled", "output": []})
        assert [item["id"] for item in store.conversation("team", "resp_b")] == ["msg_resp_a", "msg_resp_b", "msg_o"]
        assert store.find_items("team", ["msg_o", "x\0", "y" * 999]).keys() == {"msg_o"}
        assert store.find_items("other", ["msg_o"]) == {}
        store.add_events("resp_b", [(0, b"a"), (1, b"b")])
        assert store.events_after("resp_b", 0, 9) == [(1, b"b")]
        now[0] += 50
        with pytest.raises(NotFound, match=r"'resp_a', which 'resp_b' continues,"):
            store.conversation("team", "resp_b")
        assert store.find_items("team", ["msg_resp_a"]) == {}
        assert store.purge() == 1
        store.add(_new("resp_c", user="v"))
        assert (store.erase("u", "other"), store.erase("u"), store.erase("u")) == (0, 1, 0)
        assert store.events_after("resp_b", -1, 9) == []
        assert store.get("team", "resp_c").user == "v"
    finally:
        database.close()


@pytest.mark.both_databases
def test_an_approval_is_used_once_on_both_databases(tmp_path: Path, database_url: Any) -> None:
    database = open_responses_database(tmp_path, database_url)
    store = ResponseStore(database, 100.0)
    request = {"id": "mcpr_1", "type": "mcp_approval_request", "name": "echo"}
    new = _new("resp_a", "", "completed")
    kept = replace(new, body={**new.body, "output": [request]}, input=[{**request, "id": "mcpr_2"}])
    asked = {"mcpr_1": {"type": "mcp_approval_request", "name": "echo"}}
    try:
        store.add(kept)
        assert store.use_approvals("other", asked) == "mcpr_1"
        assert store.use_approvals("team", {**asked, "mcpr_2": asked["mcpr_1"]}) == "mcpr_2", "it is the caller's own"
        assert store.use_approvals("team", {"mcpr_1": {"name": "other"}}) == "mcpr_1"
        assert store.use_approvals("team", {"mcpr_\0": {}}) == "mcpr_\0"
        assert store.use_approvals("team", asked) is None, "none of those above has used it"
        with pytest.raises(Conflict, match="runs once"):
            store.use_approvals("team", asked)
        assert len(store.secret("approvals")) == 32
        assert store.secret("approvals") == store.secret("approvals")
    finally:
        database.close()


@pytest.mark.both_databases
def test_responses_kept_before_approvals_stay(tmp_path: Path, database_url: Any) -> None:
    database = open_responses_database(tmp_path, database_url)
    ResponseStore(database, 100.0).add(_new("resp_a", "", "completed"))
    with database.writing() as connection:  # as revision 0001 left it
        connection.exec_driver_sql("ALTER TABLE response_items DROP COLUMN approved_at")
        connection.exec_driver_sql("DROP TABLE response_secrets")
        connection.exec_driver_sql(f"UPDATE {SCHEMA.version_table(connection)} SET version_num = '0001'")
    database.close()
    database = open_responses_database(tmp_path, database_url)
    store = ResponseStore(database, 100.0)
    assert [item["id"] for item in store.conversation("team", "resp_a")] == ["msg_resp_a"]
    assert len(store.secret("approvals")) == 32
    database.close()


def test_a_front_hands_over_what_is_kept_before_anything_is_done() -> None:
    front: Any = SimpleNamespace(responses=OfTheOwner())
    kept, not_kept = ({"model": "m", "input": "x", "store": store} for store in (True, False))
    with pytest.raises(Elsewhere):
        keeper(front, LOCAL, ResponsesRequest(kept))
    assert keeper(front, LOCAL, ResponsesRequest(not_kept)) is None
