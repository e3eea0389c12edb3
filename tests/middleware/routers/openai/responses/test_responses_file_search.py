"""``file_search`` in ``/v1/responses``: the search runs here, its passages are cited."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from response_oracle import check_events, check_response, events_of
from running_gateway import Running, run_gateway
from upstream import Upstream, chat_chunk, reply, stream, usage, usage_chunk

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # files are read by a worker


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Upstream, str]]:
    with Upstream() as up:
        llm = {
            "providers": {"up": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", "responses": True}},
            "models": {"bench": {"deployments": [{"provider": "up", "model": "theirs"}]}},
        }
        data = {"data_dir": tmp_path_factory.mktemp("search"), "api": {"port": 0, "access_log": False}, "llm": llm}
        data["retrieval"] = {"defaults": {"embedder": "none"}}
        with run_gateway(Settings.model_validate(data)) as running:
            form = {"file": ("warranty.md", b"# Warranty\n\nThe warranty of a press lasts two years.")}
            file = running.post("/v1/files", files=form, data={"purpose": "assistants"}).json()["id"]
            store = running.post("/v1/vector_stores", {"name": "FAQ", "file_ids": [file]}).json()["id"]
            deadline = time.monotonic() + 60
            while running.get(f"/v1/vector_stores/{store}").json()["file_counts"]["completed"] < 1:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield running, up, store


def calls(up: Upstream, text: str, *, streamed: bool) -> None:
    """The model searches, then answers with ``text``."""
    up.reset()
    function = {"name": "file_search", "arguments": '{"queries": ["How long is the warranty?"]}'}
    call = {"index": 0, "id": "c1", "type": "function", "function": function}
    if streamed:
        chunk = {**chat_chunk(None), "choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}]}
        up.use(stream([chat_chunk("Let me look. "), chunk, chat_chunk(None, "tool_calls"), usage_chunk(5, 2)]), 1)
        pieces = [chat_chunk(character) for character in text]
        up.use(stream([*pieces, chat_chunk(None, "stop"), usage_chunk(50, 6)]), 1)
        return
    for message, finish in (
        ({"role": "assistant", "content": "Let me look. ", "tool_calls": [call]}, "tool_calls"),
        ({"role": "assistant", "content": text}, "stop"),
    ):
        choice = {"index": 0, "message": message, "finish_reason": finish}
        up.use(reply({"id": "c", "model": "x", "choices": [choice], "usage": usage(5, 2)}), 1)


@pytest.mark.parametrize("streamed", [False, True])
def test_it_searches_and_cites(searched: tuple[Running, Upstream, str], streamed: bool) -> None:
    running, up, store = searched
    calls(up, "Two years \u3010F1\u3011.", streamed=streamed)
    body = {"model": "bench", "input": "How long?", "tools": [{"type": "file_search", "vector_store_ids": [store]}]}
    body |= {"include": ["file_search_call.results"], "stream": streamed, "tool_choice": {"type": "file_search"}}
    answer = running.post("/v1/responses", body)
    assert answer.status_code == 200, answer.text
    if streamed:
        events = events_of(answer.content)
        response = check_events(events)
        kinds = [event["type"] for event in events]
        begin = kinds.index("response.file_search_call.in_progress")
        assert kinds[begin : begin + 3] == [
            *("response.file_search_call.in_progress", "response.file_search_call.searching"),
            "response.file_search_call.completed",
        ]
        assert kinds.count("response.output_text.annotation.added") == 1
    else:
        response = check_response(answer.json())
    before, search, message = response["output"]
    assert before["content"][0]["text"] == "Let me look. "
    assert search["queries"] == ["How long is the warranty?"]
    (result,) = search["results"]
    assert (result["filename"], result["text"]) == (
        "warranty.md",
        "Warranty\n\nThe warranty of a press lasts two years.",
    )
    (part,) = message["content"]
    assert part["text"] == "Two years."
    assert part["annotations"] == [
        {"type": "file_citation", "index": 9, "file_id": result["file_id"], "filename": "warranty.md"}
    ]
    assert [request.path for request in up.requests] == ["/v1/chat/completions"] * 2
    assert up.requests[0].body["tool_choice"]["function"] == {"name": "file_search"}
    kept = running.get(f"/v1/responses/{response['id']}").json()
    assert kept["output"][1]["results"] is None
    path = f"/v1/responses/{response['id']}?include=file_search_call.results"
    assert running.get(path).json() == response


def test_what_is_wrong_is_said_before_a_model_is_asked(searched: tuple[Running, Upstream, str]) -> None:
    running, up, store = searched
    up.reset()
    for tool, status in (
        ({"type": "file_search", "vector_store_ids": ["vs_nothing"]}, 404),
        ({"type": "file_search"}, 400),
        ({"type": "file_search", "vector_store_ids": [store], "max_num_results": "many"}, 400),
    ):
        refused = running.post("/v1/responses", {"model": "bench", "input": "x", "tools": [tool]})
        assert refused.status_code == status, refused.text
    twice = [{"type": "file_search", "vector_store_ids": [store]}] * 2
    refused = running.post("/v1/responses", {"model": "bench", "input": "x", "tools": twice})
    assert refused.json()["error"]["param"] == "tools[1]"
    assert not up.requests
