"""A stream that is passed on as it comes is the one that is read piece by piece, whatever its client takes."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage.errors import SageError, UpstreamFailed
from sage.middleware.app.main import make_gateway
from sage.middleware.auth.principal import LOCAL
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.providers.transport import FakeResponse, FakeTransport
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

TEXTS = ("one ", "two ", "wörld", "值", "")


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "model": "m", "choices": [choice]}).encode() + b"\n\n"


EVENTS = [*map(event, TEXTS), event("", "stop")]
WHOLE = b"".join(EVENTS)
ENDS = {
    "done": (b"data: [DONE]\n\n", ""),
    "no done": (b"", ""),
    "error": (b'data: {"error": {"message": "broken", "code": 500}}\n\n', "upstream_failed"),
    "nonsense": (b"data: {]\n\n", "upstream_nonsense"),
}


class Client:
    """Takes what is written as ``takes`` says, in turn; ``got`` is what it was sent, either way."""

    def __init__(self, takes: list[bool]) -> None:
        self.got = b""
        self.written = 0
        self._takes = takes

    def write(self, events: bytes) -> bool:
        takes = self._takes.pop(0) if self._takes else True
        if takes:
            self.written += 1
            self.got += events
        return takes


async def told(folder: Path, response: FakeResponse, client: Client) -> str:
    """The code of the error that the stream ended with; empty for a regular end."""
    providers = {"up": {"kind": "openai", "base_url": "http://up.example/v1", "api_key": "k"}}
    gateway = make_gateway(
        Settings.model_validate({"data_dir": folder, "llm": {"providers": providers}}),
        transport=FakeTransport(lambda request: response),
    )
    call = ModelCall(Operation.CHAT, {"model": "up/m", "messages": [{"role": "user", "content": "x"}]}, "up/m", True)
    try:
        async with gateway.call(LOCAL, call) as answer:
            events = answer.body
            while events:
                client.got += events
                events = await answer.more(client.write)
            assert answer.finished
            await answer.drain()
    except SageError as error:
        return error.code
    return ""


def cut(data: bytes, places: list[int]) -> list[bytes | Exception]:
    """The first event by itself: with an error behind it in one read there would be no answer at all."""
    edges = sorted({0, len(EVENTS[0]), len(data), *(place % len(data) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    places=st.lists(st.integers(0, 2000), max_size=20),
    takes=st.lists(st.booleans(), max_size=20),
    end=st.sampled_from([*ENDS]),
)
def test_nothing_is_lost_doubled_or_falsely_finished(
    tmp_path: Path, places: list[int], takes: list[bool], end: str
) -> None:
    last, code = ENDS[end]
    client = Client(takes)
    assert asyncio.run(told(tmp_path, FakeResponse(chunks=cut(WHOLE + last, places)), client)) == code
    *events, rest = client.got.split(b"\n\n")
    assert rest == b""
    assert (events[-1] == b"data: [DONE]") is not bool(code)
    chunks = [json.loads(each.removeprefix(b"data: ")) for each in events if each != b"data: [DONE]"]
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == [*TEXTS, ""]
    assert {chunk["model"] for chunk in chunks} == {"up/m"}


def test_a_stream_that_breaks_is_told_after_what_came(tmp_path: Path) -> None:
    chunks = [*EVENTS[:2], UpstreamFailed("cut", code="upstream_broken")]
    client = Client([])
    assert asyncio.run(told(tmp_path, FakeResponse(chunks=chunks), client)) == "upstream_broken"
    assert client.got.count(b"data: ") == 2
    assert client.written == 1, "the first piece is what the call begins with"


@pytest.mark.parametrize("takes", [True, False])
def test_a_client_that_takes_all_is_written_to_and_one_that_takes_nothing_is_not(tmp_path: Path, takes: bool) -> None:
    client = Client([takes] * 100)
    response = FakeResponse(chunks=[*EVENTS, b"data: [DONE]\n\n"])
    assert asyncio.run(told(tmp_path, response, client)) == ""
    assert client.written == (len(EVENTS) if takes else 0)
    assert client.got.count(b"data: ") == len(EVENTS) + 1
