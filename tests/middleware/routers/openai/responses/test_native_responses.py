"""Responses that go on as they are to a server that has the route, and what is kept of them here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from response_oracle import check_events, check_response, events_of
from running_gateway import Running
from shared_gateway import PATIENT
from upstream import Upstream, stream

_UPSTREAM_ID = "resp_theirs"


def sections(up: Upstream) -> dict[str, Any]:
    def provider(**fields: Any) -> dict[str, Any]:
        return {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", **fields}

    def model(*providers: str) -> dict[str, Any]:
        return {"deployments": [{"provider": name, "model": "theirs"} for name in providers]}

    providers = {
        "has": provider(responses=True),
        "not": provider(),
        "open": provider(responses=True, hosted_tools=["web_search*"]),
    }
    models = {"bench": model("has"), "plain": model("not"), "mixed": model("has", "not"), "open": model("open")}
    models["dropping"] = {**model("not"), "drop_unsupported": True}
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}


def their_response(text: str = "hi", **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    thought = {"id": "rs_theirs", "type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    message = {"id": "msg_theirs", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 37,
    }
    response = {"id": _UPSTREAM_ID, "object": "response", "created_at": 1, "status": "completed", "model": "theirs-2"}
    response |= {"output": [thought, message], "usage": usage, "error": None, "store": False, "their_own": 1}
    return {**response, "completed_at": 2, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], **fields}


def their_events(response: dict[str, Any]) -> list[bytes]:
    started = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": started},
        {"type": "response.in_progress", "response": started},
    ]
    for number, item in enumerate(response["output"]):
        place = {"item_id": item["id"], "output_index": number}
        events.append({"type": "response.output_item.added", "output_index": number, "item": item})
        if item["type"] == "message":
            text = item["content"][0]["text"]
            inside = {**place, "content_index": 0}
            events.append({"type": "response.output_text.delta", **inside, "delta": text, "logprobs": []})
            events.append({"type": "response.output_text.done", **inside, "text": text, "logprobs": []})
        events.append({"type": "response.output_item.done", "output_index": number, "item": item})
    events.append({"type": f"response.{response['status']}", "response": response})
    return [
        f"event: {event['type']}\ndata: {json.dumps({'sequence_number': number, **event})}\n\n".encode()
        for number, event in enumerate(events)
    ]


@pytest.mark.parametrize("streams", [False, True])
def test_a_request_goes_on_as_it_is_and_its_state_stays_here(running: Running, up: Upstream, streams: bool) -> None:
    def create(**fields: Any) -> dict[str, Any]:
        if streams:
            up.use(stream(their_events(their_response()), no_done=True), 1)
        else:
            up.reply(their_response(), times=1)
        answer = running.post("/v1/responses", {"model": "bench", "stream": streams, **fields})
        assert answer.status_code == 200, answer.text
        if streams:
            return check_events(events_of(answer.content))
        return check_response(answer.json())

    fields = {"reasoning": {"effort": "low"}, "metadata": {"a": "b"}, "service_tier": "flex", "new_field": {"x": [1]}}
    first = create(input="one", **fields)
    sent = up.requests[-1]
    assert sent.path == "/v1/responses"
    assert sent.body == {
        **{"model": "theirs", "input": "one", "stream": streams, "store": False},
        **{"include": ["reasoning.encrypted_content"], **fields},
    }
    assert first["id"] != _UPSTREAM_ID
    assert (first["model"], first["store"], first["metadata"], first["their_own"]) == ("bench", True, {"a": "b"}, 1)
    assert running.get(f"/v1/responses/{first['id']}").json() == first
    assert running.get(f"/v1/responses/{_UPSTREAM_ID}").status_code == 404

    second = create(input=[{"role": "user", "content": "two"}], previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    body = up.requests[-1].body
    assert "previous_response_id" not in body
    assert [item.get("type", item.get("role")) for item in body["input"]] == ["message", "reasoning", "message", "user"]
    assert body["input"][1]["encrypted_content"] == "gAAAA"
    assert all("id" not in item for item in body["input"] if item.get("type") == "message")


def test_usage_is_counted(running: Running, up: Upstream) -> None:
    up.use(stream(their_events(their_response()), no_done=True), 1)
    request_id = running.post("/v1/responses", {"model": "open", "input": "x", "stream": True}).headers["x-request-id"]
    row = running.get("/usage/requests?limit=1").json()["requests"][0]
    assert (row["id"], row["prompt_tokens"], row["completion_tokens"]) == (request_id, 30, 7)
    assert (row["cached_tokens"], row["reasoning_tokens"]) == (10, 4)


def test_streams_byte_by_byte_and_with_other_line_ends(running: Running, up: Upstream) -> None:
    events = their_events(their_response("a\u4e2d"))
    whole = b"".join(events)
    script = stream(events, no_done=True, split=range(1, len(whole)), delay=1e-6)
    up.use(script, 1)
    torn = running.post("/v1/responses", {"model": "bench", "input": "x", "stream": True})
    response = check_events(events_of(torn.content))
    assert response["output"][1]["content"][0]["text"] == "a\u4e2d"
    up.use(stream([event.replace(b"\n", b"\r\n") for event in events]), 1)
    crlf = running.post("/v1/responses", {"model": "bench", "input": "x", "stream": True})
    assert check_events(events_of(crlf.content))["output"] == response["output"]


def test_what_breaks_is_our_error(running: Running, up: Upstream) -> None:
    events = their_events(their_response())
    up.use(stream(events, cut_after=4), 1)
    cut = events_of(running.post("/v1/responses", {"model": "bench", "input": "x", "stream": True}).content)
    assert cut[-1]["type"] == "response.failed"
    assert [event["sequence_number"] for event in cut] == list(range(len(cut)))
    failed = their_response(status="failed", error={"code": "server_error", "message": "boom"})
    up.use(stream([*events[:3], *their_events(failed)[-1:]], no_done=True, delay=0.05), 1)
    broken = events_of(running.post("/v1/responses", {"model": "bench", "input": "x", "stream": True}).content)
    assert broken[-1]["response"]["error"]["message"].endswith("boom")
    up.reply(failed, times=3)
    assert running.post("/v1/responses", {"model": "bench", "input": "x"}).status_code == 502
    up.reply({"no": "response"}, times=3)
    assert running.post("/v1/responses", {"model": "bench", "input": "x"}).status_code == 502


def test_hosted_tools_go_on_only_where_they_are_allowed(running: Running, up: Upstream) -> None:
    def post(model: str) -> Any:
        tools = [{"type": "web_search"}, {"type": "function", "name": "f"}]
        return running.post("/v1/responses", {"model": model, "input": "x", "tools": tools})

    for model, code in (
        ("bench", "hosted_tool_not_allowed"),
        ("plain", "unsupported_by_translation"),
        ("mixed", "unsupported_by_translation"),
    ):
        refused = post(model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code)
    assert not up.requests
    up.reply(their_response(), times=1)
    assert post("open").status_code == 200
    assert up.requests[-1].body["tools"][0] == {"type": "web_search"}
    assert post("dropping").status_code == 200
    assert [tool["function"]["name"] for tool in up.requests[-1].body["tools"]] == ["f"]


def test_addresses_are_checked_and_words_are_not(running: Running, up: Upstream) -> None:
    def post(*items: Any) -> int:
        return running.post("/v1/responses", {"model": "bench", "input": list(items)}).status_code

    url = "http://169.254.169.254/latest"
    for part in ({"type": "input_image", "image_url": url}, {"type": "input_file", "file_url": url}):
        assert post({"role": "user", "content": [part]}) == 400
    assert not up.requests
    up.reply(their_response())
    call = {"type": "function_call", "call_id": "c", "name": "fetch", "arguments": url, "id": "fc_1"}
    output = {"type": "function_call_output", "call_id": "c", "output": f"file:///etc/passwd {url}"}
    assert post({"role": "user", "content": url}, call, output) == 200


def test_a_model_of_a_provider_by_its_name_is_native_too(running: Running, up: Upstream) -> None:
    up.reply(their_response(), times=1)
    assert running.post("/v1/responses", {"model": "has/other", "input": "x"}).json()["model"] == "has/other"
    assert up.requests[-1].path == "/v1/responses"
    assert running.post("/v1/responses", {"model": "not/other", "input": "x"}).status_code == 200
    assert up.requests[-1].path == "/v1/chat/completions"


def test_a_whole_response_in_place_of_a_stream_becomes_one(running: Running, up: Upstream) -> None:
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c1",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    refused = {"type": "refusal", "refusal": "No."}
    thought = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    said = their_response("hi there")["output"][1]
    output = [thought, {**said, "content": [*said["content"], refused]}, call]
    up.reply(their_response(output=output, status="incomplete", incomplete_details={"reason": "max_output_tokens"}))
    answer = running.post("/v1/responses", {"model": "bench", "input": "Hi", "stream": True})
    assert answer.status_code == 200, answer.text
    events = events_of(answer.content)
    check_events(events)
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == ["Hm.", "hi there", "No.", "{}"]
    last = events[-1]
    assert (last["type"], last["response"]["model"]) == ("response.incomplete", "bench")
    assert [item["type"] for item in last["response"]["output"]] == ["reasoning", "message", "function_call"]
    assert running.get(f"/v1/responses/{last['response']['id']}").json()["output"] == last["response"]["output"]
