"""What is plain goes a shorter way through Responses, and nobody can tell: each plain shape is held against another one
that says the same and has to be looked at."""

from __future__ import annotations

import copy
import re
import time
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from response_oracle import check_events, check_response, events_of
from running_gateway import Running
from upstream import Upstream

from sage.errors import InvalidRequest, UpstreamFailed
from sage.middleware.providers.wire.event_bytes import DONE
from sage.middleware.providers.wire.sse import EventRelay
from sage.middleware.routers.openai.responses import resource
from sage.middleware.routers.openai.responses.answer import complete
from sage.middleware.routers.openai.responses.events import ChatStreamEvents
from sage.middleware.routers.openai.responses.plain import PlainRequest
from sage.middleware.routers.openai.responses.request import ResponsesRequest
from sage.middleware.routers.openai.responses.writer import EventWriter

_TEXT = st.text("ab {}[]:,'%dé\U0001f600\u2028\n\r\"\\", max_size=8) | st.sampled_from(
    ["@", "[DONE]", "data: {", "\n\n", "%b"]
)
_ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, -1, 1.5, "1", [], {}])
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": _TEXT},
    optional={"type": st.just("message"), "id": st.just("msg_1"), "status": st.just("completed")},
)
_ITEM = _MESSAGE | st.sampled_from(
    [
        {"role": "tool", "content": "a"},
        {"role": ["user"], "content": "a"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": None},
        {"type": None, "role": "user", "content": "a"},
        {"type": "reasoning", "role": "user", "content": "a"},
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        "a",
        None,
    ]
)
_BODY = st.fixed_dictionaries(
    {"model": st.just("m"), "input": _TEXT | st.lists(_MESSAGE, min_size=1, max_size=5) | st.lists(_ITEM, max_size=4)},
    optional={
        "instructions": _TEXT | _ODD,
        "stream": st.booleans() | _ODD,
        "store": st.booleans() | _ODD,
        "max_output_tokens": st.integers(1, 9) | _ODD,
        "temperature": st.floats(0, 2) | _ODD,
        "top_p": st.floats(0, 1) | _ODD,
    },
)
_READ = [
    "store",
    "stream",
    "background",
    "include",
    "previous_id",
    "summarised",
    "truncates",
    "has_thoughts",
    "refuses",
    "approvals",
    "tools",
]
_COUNTS = st.integers(0, 2**53) | st.sampled_from([-1, 2**60, 1.5, True, None, "3"])


def _looked_at(body: dict[str, Any]) -> ResponsesRequest:
    """As the endpoint reads any request."""
    request = ResponsesRequest(body)
    request.translate()
    assert not request.references
    assert not request.approved
    assert request.only_native is None
    request.chat["model"] = body["model"]
    if request.stream:
        request.chat["stream"] = True
    return request


@given(_BODY)
def test_a_plain_request_is_what_any_other_becomes(body: dict[str, Any]) -> None:
    given = copy.deepcopy(body)
    plain = PlainRequest.read(body)
    assert body == given
    if plain is None:
        return
    request = _looked_at(given)
    assert plain.chat == request.chat
    assert (plain.input, plain.body) == (request.input, request.body)
    for field in _READ:
        assert getattr(plain, field) == getattr(request, field), field
    response = plain.response("resp_7")
    created = {"created_at": int(time.time())}  # a second may end between the two
    assert orjson.dumps(response | created) == orjson.dumps(resource.new_response(given, "resp_7") | created)


@given(st.lists(_MESSAGE, max_size=5).map(lambda items: [*items, {"role": "user", "content": "Hi"}]) | _TEXT)
def test_requests_of_texts_are_plain(items: Any) -> None:
    """So the test above has something to compare."""
    assert PlainRequest.read({"model": "m", "input": items, "store": False, "temperature": 1}) is not None


@pytest.mark.parametrize("model", [None, "", 7, "m" * 9_999])
def test_a_plain_request_needs_a_model(model: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        PlainRequest.read({"model": model, "input": "Hi"})
    assert caught.value.param == "model"


@given(
    text=_TEXT,
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "eos", "STOP", None, 7, ""]),
    usage=st.fixed_dictionaries({"prompt_tokens": _COUNTS, "completion_tokens": _COUNTS, "total_tokens": _COUNTS})
    | st.none(),
    tier=st.sampled_from([None, "priority", 7]),
)
def test_an_answer_of_text_is_one_that_might_have_said_more(
    text: str, finish: Any, usage: dict[str, Any] | None, tier: Any
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    plain: dict[str, Any] = {"id": "1", "choices": [choice], "usage": usage, "service_tier": tier}
    looked_at = copy.deepcopy(plain)
    looked_at["choices"][0]["message"] |= {"refusal": "", "reasoning": None, "tool_calls": [], "thinking_blocks": []}
    if usage is not None:
        looked_at["usage"]["prompt_tokens_details"] = {}
    body = {"model": "m", "input": "Hi"}
    answers = []
    for chat in (plain, looked_at):
        response = complete(ResponsesRequest(body), resource.new_response(body, "resp_7"), chat)
        answers.append(orjson.dumps(response | {"created_at": 1, "completed_at": 1}))
    assert answers[0] == answers[1]
    check_response(orjson.loads(answers[0]))


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "chatcmpl-1", "model": "theirs", "choices": [choice]}) + b"\n\n"


class _OneByOne(EventWriter):
    """Writes each event by itself."""

    def begin(self) -> bytes:
        return self.snapshot("response.created") + self.snapshot("response.in_progress")

    def text_begun(self, name: str) -> bytes:
        begun = self.added(resource.message_item(name, [], "in_progress"))
        place = {"item_id": name, "output_index": len(self.output), "content_index": 0}
        return begun + self.event("response.content_part.added", **place, part=resource.text_part(""))

    def text_ended(self, name: str, text: str, status: str) -> bytes:
        place = {"item_id": name, "output_index": len(self.output), "content_index": 0}
        part = resource.text_part(text)
        return (
            self.event("response.output_text.done", **place, text=text, logprobs=[])
            + self.event("response.content_part.done", **place, part=part)
            + self.done(resource.message_item(name, [part], status))
        )


def _translated(deltas: list[dict[str, Any]], finish: str, cuts: list[int], *, plain: bool) -> bytes:
    """The stream for ``deltas``, of which as many come at once as ``cuts`` say. Unless it is ``plain``, all are read,
    and their events written one by one."""
    relay = EventRelay("public", keep_usage=True, on_error=lambda error: UpstreamFailed(str(error)))
    body = {"model": "m", "input": "Hi", "instructions": "100 %d"}
    response = resource.new_response(body, "resp_7") | {"created_at": 1}
    writer = EventWriter(response) if plain else _OneByOne(response)
    events = ChatStreamEvents(ResponsesRequest(body), writer, sender=relay if plain else None)
    # No chunk is like another that may say something beside its text.
    more: dict[str, Any] = {} if plain else {"annotations": []}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    chunks = [_chunk({**delta, **more}) for delta in deltas] + [_chunk({}, finish)]
    last = orjson.dumps({"id": "chatcmpl-1", "model": "theirs", "choices": [], "usage": usage})
    chunks += [b"data: " + last + b"\n\n", DONE]
    out, start = b"", 0
    for cut in [*cuts, len(chunks)]:
        out += events.translate(relay.feed(b"".join(chunks[start : start + cut])))
        start += cut
    assert relay.finished
    end = events.end()
    assert isinstance(end, bytes)
    return re.sub(rb'"completed_at":\d+', b'"completed_at":1', out + end)


@example(pieces=[("content", "a"), ("content", "b"), ("content", "")], with_role="none", finish="stop", cuts=[])
@given(
    pieces=st.lists(st.tuples(st.sampled_from(["content"] * 6 + ["reasoning_content", "refusal"]), _TEXT), max_size=16),
    with_role=st.sampled_from(["first", "each", "none"]),
    finish=st.sampled_from(["stop", "length"]),
    cuts=st.lists(st.integers(1, 6), max_size=20),
)
def test_a_stream_whose_chunks_are_alike_is_one_whose_chunks_are_all_read(
    pieces: list[tuple[str, str]], with_role: str, finish: str, cuts: list[int]
) -> None:
    deltas: list[dict[str, Any]] = [{field: text} for field, text in pieces]
    for delta in deltas if with_role == "each" else deltas[:1] if with_role == "first" else []:
        delta["role"] = "assistant"
    sent = _translated(deltas, finish, cuts, plain=True)
    assert sent == _translated(deltas, finish, [1] * len(deltas), plain=False)
    check_events(events_of(sent))


def test_chunks_that_are_alike_are_not_read() -> None:
    """So the test above has something to compare."""
    relay = EventRelay("public", keep_usage=True, on_error=lambda error: UpstreamFailed(str(error)))
    body = {"model": "m", "input": "Hi"}
    writer = EventWriter(resource.new_response(body, "resp_7"))
    events = ChatStreamEvents(ResponsesRequest(body), writer, sender=relay)
    for _ in range(3):
        events.translate(relay.feed(_chunk({"content": "a"})))
    sent = relay.feed(_chunk({"content": "b"}) + _chunk({"content": "c"}))
    assert relay.shape is not None
    assert relay.shape.sent is sent
    relay.shape.sent_texts = [b"from the relay"]
    (event,) = events_of(events.translate(sent))
    assert event["delta"] == "from the relay"


@pytest.mark.parametrize("streams", [False, True])
def test_both_ways_through_the_gateway(running: Running, up: Upstream, streams: bool) -> None:
    """One request that is plain, and one that is looked at for a field that asks nothing."""
    plain = {
        "model": "bench",
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello %d out there"}],
        "instructions": "You are a pirate.",
        "max_output_tokens": 64,
        "temperature": 0.5,
        "stream": streams,
        "store": False,
    }
    sent, answers = [], []
    for body in (plain, {**plain, "client_metadata": {}}):
        answer = running.post("/v1/responses", body)
        assert answer.status_code == 200, answer.text
        same = re.sub(rb'(?<=resp_|.msg_)[0-9a-f]{48}|(?<=ed_at":)\d+', b"", answer.content)
        answers.append(same)
        sent.append(up.requests[-1].body)
    assert answers[0] == answers[1]
    assert sent[0] == sent[1]
