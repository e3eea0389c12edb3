"""`LLMService`: the gateway as a Python object, over a scripted upstream."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sage_process import environment
from upstream import Upstream, chat_chunk
from waiting import wait_until

from sage.errors import ConfigError, Conflict, InvalidRequest, NotFound, Unavailable, UpstreamFailed
from sage.middleware.llm import LLMService
from sage.middleware.llm.program_end import program_end
from sage.middleware.retrieval import VectorStore
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def service(up: Upstream, tmp_path: Path) -> Iterator[LLMService]:
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "api": {"access_log": False},
            "llm": {"providers": {"east": {"kind": "openai", "base_url": up.url}}},
        }
    )
    with LLMService(settings) as service:
        service.register_model("mine", provider="east", model="theirs")
        yield service


def test_generate(service: LLMService, up: Upstream) -> None:
    answer = service.generate("mine", "hello there", max_tokens=5, temperature=0)
    assert answer.text == "hello there"
    assert (answer.model, answer.provider, answer.finish_reason) == ("mine", "east", "stop")
    assert answer.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert up.requests[0].body == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "hello there"}],
        "max_tokens": 5,
        "temperature": 0,
    }
    assert service.generate("mine", messages=[{"role": "user", "content": "hi"}]).text == "hi"


def test_half_a_character_is_replaced(service: LLMService, up: Upstream) -> None:
    messages = [{"role": "user", "content": "cut \ud83d here"}]
    assert service.generate("mine", messages=messages).text == "cut \ufffd here"
    assert messages[0]["content"] == "cut \ud83d here"


def test_refusals_and_calls_of_tools_are_told(service: LLMService, up: Upstream) -> None:
    made = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "refusal": "I cannot", "tool_calls": [made]}
    up.reply({"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}, times=1)
    answer = service.generate("mine", "hello there")
    assert (answer.text, answer.refusal, answer.tool_calls) == ("I cannot", "I cannot", [made])
    assert service.generate("mine", "hello there").refusal is None


def test_stream(service: LLMService) -> None:
    assert list(service.stream("mine", "hello you there")) == ["hello ", "you ", "there"]


def test_a_stream_that_is_left_ends_the_call_upstream(service: LLMService, up: Upstream) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    pieces = service.stream("mine", "x")
    assert next(pieces) == "one"
    pieces.close()
    up.wait_closed(5)


def test_a_stream_that_breaks_raises(service: LLMService, up: Upstream) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], cut_after=1, delay=0.02)
    pieces = service.stream("mine", "x")
    assert next(pieces) == "one"
    with pytest.raises(UpstreamFailed):
        next(pieces)


def test_a_stream_that_is_half_read_when_the_service_stops(service: LLMService, up: Upstream) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    pieces = service.stream("mine", "x")
    assert next(pieces) == "one"
    service.stop()
    up.wait_closed(5)
    with pytest.raises(Unavailable, match="was stopped"):
        next(pieces)
    pieces.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sage-gateway"]


@pytest.mark.slow
def test_stop_and_start_wait_for_nobody_and_nobody_for_them(service: LLMService) -> None:
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            with contextlib.suppress(Unavailable, UpstreamFailed):
                service.generate("mine", "x")

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        service.start(port=0)
        service.stop()
    stopped.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_stream_that_another_thread_reads_ends_with_the_service(service: LLMService, up: Upstream) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    events: list[object] = []
    first = threading.Event()

    def read() -> None:
        try:
            for piece in service.stream("mine", "x"):
                events.append(piece)
                first.set()
        except Unavailable as exc:
            events.append(exc.code)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert first.wait(10)
    service.stop()
    thread.join(10)
    assert events == ["one", "shutting_down"]


def test_errors_are_those_of_http(service: LLMService) -> None:
    with pytest.raises(NotFound, match=r"registered: .*mine"):
        service.generate("nothing", "x")
    with pytest.raises(InvalidRequest, match="max_tokens"):
        service.generate("mine", "x", max_tokens=-3)
    with pytest.raises(InvalidRequest, match="either 'prompt' or 'messages'"):
        service.generate("mine")
    with pytest.raises(InvalidRequest, match="call stream"):
        service.generate("mine", "x", stream=True)
    with pytest.raises(ConfigError, match="no provider 'nope'"):
        service.register_model("x", provider="nope")
    service.register_model("later", provider="openai")
    with pytest.raises(Unavailable, match="OPENAI_API_KEY"):
        service.generate("later", "x")


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"provider": ""}, "provider"),
        ({"provider": 3}, "provider"),
        ({"model": ""}, "model"),
        ({"fallbacks": "bench"}, "fallbacks"),
        ({"fallbacks": [""]}, "fallbacks"),
        ({"fallbacks": [None]}, "fallbacks"),
    ],
)
def test_what_is_no_name_is_refused_as_everywhere(service: LLMService, arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{param}' must be a") as caught:
        service.register_model(**{"name": "mine", "provider": "openai", **arguments})
    assert caught.value.param == param


@pytest.mark.parametrize("port", [-1, 65536, "8000", None])
def test_a_port_that_is_none_is_refused(service: LLMService, port: Any) -> None:
    with pytest.raises(ConfigError, match="'port' must be a whole number from 0 to 65535"):
        service.start(port=port)


def test_start_serves_http_until_stop(service: LLMService) -> None:
    service.start(port=0)
    assert service.url is not None
    url = service.url
    body = {"model": "mine", "prompt": "hello"}
    assert requests.post(f"{url}/generate", json=body, timeout=10).json()["text"] == "hello"
    assert service.generate("mine", "still here").text == "still here"
    with pytest.raises(ConfigError, match="already runs"):
        service.start(port=0)
    gateway = [thread for thread in threading.enumerate() if thread.name.startswith("sage-gateway")]
    assert gateway
    service.stop()
    wait_until(lambda: not any(thread.is_alive() for thread in gateway))  # an idle one of the pool ends by itself
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=5)
    service.stop()
    service.start(port=0)
    assert requests.get(f"{service.url}/health", timeout=5).json() == {"status": "ok"}


def test_what_was_registered_is_there_after_a_restart(service: LLMService) -> None:
    service.start(port=0)
    service.stop()
    assert service.generate("mine", "again").text == "again"


def test_start_with_auth_asks_for_a_credential(service: LLMService) -> None:
    service.start(port=0, auth=True)
    body = {"model": "mine", "prompt": "hello"}
    assert requests.post(f"{service.url}/generate", json=body, timeout=10).status_code == 401


def test_the_door_is_never_open_beyond_loopback(service: LLMService) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        service.start(host="0.0.0.0", port=0)


def test_a_taken_port_is_told_and_nothing_is_left(service: LLMService) -> None:
    service.start(port=0)
    assert service.url is not None
    port = int(service.url.rsplit(":", 1)[1])
    with LLMService(Settings(data_dir=Path("unused"))) as other, pytest.raises(ConfigError, match="taken"):
        other.start(port=port)


def test_on_a_running_event_loop_blocking_calls_work_too(service: LLMService) -> None:
    """As in a cell of a notebook."""

    async def cell() -> None:
        assert service.generate("mine", "hello").text == "hello"
        assert list(service.stream("mine", "hello you")) == ["hello ", "you"]
        service.register_model("more", provider="east")
        assert service.generate("more", "hello").model == "more"
        with pytest.raises(Conflict, match="it runs at east"):
            service.load("mine")
        service.start(port=0)
        assert (await asyncio.to_thread(requests.get, f"{service.url}/health", timeout=10)).ok
        service.stop()

    asyncio.run(cell())


def test_calls_that_are_awaited(service: LLMService) -> None:
    async def main() -> None:
        answers = await asyncio.gather(*(service.agenerate("mine", f"n={number}") for number in range(20)))
        assert [answer.text for answer in answers] == [f"n={number}" for number in range(20)]
        assert [text async for text in service.astream("mine", "hello you there")] == ["hello ", "you ", "there"]
        with pytest.raises(InvalidRequest, match="max_tokens"):
            await service.agenerate("mine", "x", max_tokens=-3)
        with pytest.raises(NotFound, match="nothing"):
            await anext(service.astream("nothing", "x"))
        for call in service.aload, service.aunload:
            with pytest.raises(Conflict, match="it runs at east"):
                await call("mine")

    asyncio.run(main())


def test_an_awaited_call_that_is_cancelled_ends_upstream(service: LLMService, up: Upstream) -> None:
    async def main() -> None:
        up.hang()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(service.agenerate("mine", "x"), 0.05)
        up.wait_closed(5)
        up.reset()
        up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
        texts = service.astream("mine", "x")
        assert await anext(texts) == "one"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(texts), 0.05)
        up.wait_closed(5)

    asyncio.run(main())


def test_an_awaited_stream_that_is_left_ends_upstream(service: LLMService, up: Upstream) -> None:
    async def main() -> None:
        up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
        async for text in service.astream("mine", "x"):
            assert text == "one"
            break

    asyncio.run(main())
    up.wait_closed(5)


def test_awaited_calls_end_with_the_service(service: LLMService, up: Upstream) -> None:
    async def main() -> None:
        up.hang()
        call = asyncio.ensure_future(service.agenerate("mine", "x"))
        await asyncio.to_thread(up.wait_requests)
        await asyncio.to_thread(service.stop)
        with pytest.raises(Unavailable, match="was stopped"):
            await call

    asyncio.run(main())


def test_a_store_with_a_model_of_the_service_works_on_a_running_event_loop(service: LLMService) -> None:
    async def cell() -> None:
        with VectorStore(embedder="east/embedder", models=service.search_models) as store:
            store.add_documents(["red", "green"], ids=["r", "g"])
            await store.aadd_documents(["blue"], ids=["b"])
            assert [result.id for result in store.search("blue", top_k=1)] == ["b"]
            found = await store.asearch("blue", 1, "dense", exact=True)
            assert [(result.id, result.text) for result in found] == [("b", "blue")]
            with pytest.raises(InvalidRequest, match="top_k"):
                await store.asearch("blue", 0)

    asyncio.run(cell())


def test_a_service_says_what_it_is(service: LLMService) -> None:
    assert repr(service) == "<LLMService: open, registered: mine>"
    service.start(port=0)
    assert repr(service) == f"<LLMService: serves at {service.url}, registered: mine>"
    service.stop()
    assert repr(service) == "<LLMService: not running, registered: mine>"


def test_an_answer_shows_what_it_has(service: LLMService) -> None:
    answer = service.generate("mine", "hello")
    usage = "usage={'prompt_tokens': 2, 'completion_tokens': 1, 'total_tokens': 3}"
    expected = (
        f"Generation(id={answer.id!r}, model='mine', text='hello', finish_reason='stop', {usage}, provider='east')"
    )
    assert (repr(answer), str(answer)) == (expected, "hello")


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> None:
    """What other tests have left is not looked at each time that a test here collects garbage."""
    gc.collect()
    gc.freeze()


def gateway_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sage-gateway"]


@pytest.fixture
def settings(tmp_path: Path, up: Upstream) -> Settings:
    llm = {"providers": {"east": {"kind": "openai", "base_url": up.url}}}
    retrieval = {"defaults": {"embedder": "none"}}
    data = {"data_dir": tmp_path, "llm": llm, "retrieval": retrieval, "api": {"access_log": False}}
    return Settings.model_validate(data)


def test_a_service_that_nobody_holds_stops(settings: Settings) -> None:
    """As when a cell of a notebook is run again: the models of the service before must not stay in memory."""
    before = set(gateway_threads())
    service = LLMService(settings)
    assert service.generate("east/theirs", "hello").text == "hello"
    [thread] = set(gateway_threads()) - before
    service = LLMService(settings)
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert service.generate("east/theirs", "hello").text == "hello"
    service.stop()


HOLDERS: dict[str, tuple[Callable[[LLMService], Any], Callable[[Any], Any], Any]] = {
    "a stream": (lambda service: service.stream("east/theirs", "hello you"), list, ["hello ", "you"]),
    "a store": (
        lambda service: VectorStore(embedder="east/embedder", models=service.search_models),
        lambda store: len(store.add_documents(["red"])),
        1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOLDERS)
def test_a_service_stays_open_for_what_needs_it(name: str, settings: Settings) -> None:
    make, use, result = HOLDERS[name]
    before = set(gateway_threads())
    held = make(LLMService(settings))
    gc.collect()
    assert use(held) == result
    [thread] = set(gateway_threads()) - before
    del held
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def stop_all_services() -> None:
    """Also those that the test has no name for any more."""
    for service in list(program_end._open):
        service.stop()


def test_a_collection_works_without_its_service(settings: Settings) -> None:
    collection = LLMService(settings).collection("facts")
    gc.collect()
    assert collection.describe()["documents"] == 0
    stop_all_services()


def test_a_service_that_serves_needs_nobody_to_hold_it(settings: Settings) -> None:
    service = LLMService(settings)
    service.start(port=0)
    url = service.url
    del service
    gc.collect()
    assert requests.get(f"{url}/health", timeout=10).ok
    stop_all_services()


def test_many_threads(service: LLMService) -> None:
    answers: list[str] = []

    def ask(number: int) -> None:
        answers.append(service.generate("mine", f"n={number}").text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == sorted(f"n={number}" for number in range(20))


def test_two_services_live_in_one_process(up: Upstream, tmp_path: Path, service: LLMService) -> None:
    settings: Callable[..., Settings] = Settings.model_validate
    with LLMService(
        settings({"data_dir": tmp_path / "b", "llm": {"providers": {"west": {"kind": "openai", "base_url": up.url}}}})
    ) as other:
        other.register_model("theirs", provider="west")
        assert other.generate("theirs", "a").provider == "west"
        assert service.generate("mine", "b").provider == "east"
        with pytest.raises(NotFound):
            other.generate("mine", "c")


def test_answers_from_sources(tmp_path: Path, up: Upstream) -> None:
    data = {
        "data_dir": tmp_path,
        "llm": {"providers": {"east": {"kind": "openai", "base_url": up.url}}},
        "retrieval": {"defaults": {"embedder": "none"}},
    }
    with LLMService(Settings.model_validate(data)) as service:
        service.register_model("mine", provider="east", model="theirs")
        service.collection("facts").add([{"id": "moon", "text": "The base on the moon is called Selene."}])
        search = {"collection": "facts", "top_k": 1}
        answer = service.generate("mine", "Which base is on the moon?", search=search)
        assert answer.sources is not None
        assert [source["id"] for source in answer.sources] == ["moon"]
        assert "called Selene." in up.requests[0].body["messages"][0]["content"]
        assert "called Selene." in "".join(service.stream("mine", "Which base is on the moon?", search=search))
        assert service.generate("mine", "hello").sources is None
        with pytest.raises(NotFound, match="there are: facts"):
            service.generate("mine", "x", search={"collection": "nope"})
        service.start(port=0)
        answer = requests.post(f"{service.url}/search", json={"query": "base", "collection": "facts"}, timeout=10)
        assert [result["id"] for result in answer.json()["results"]] == ["moon"]


@pytest.mark.slow
def test_collections_work_after_the_main_thread_has_ended(tmp_path: Path) -> None:
    """A program that only starts a service lives on by it; the standard library's thread pools refuse work then."""
    code = """if True:
        import os, requests, signal, sys, threading
        from sage.middleware.llm import LLMService

        service = LLMService()
        service.start(port=0)
        url = service.url

        def later():
            threading.main_thread().join()
            documents = {"documents": [{"id": "a", "text": "hello"}]}
            print(requests.post(url + "/collections/c/documents", json=documents).status_code)
            asked = {"collection": "c", "query": "hello", "mode": "bm25"}
            print(requests.post(url + "/search", json=asked).json()["total"])
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=later).start()
    """
    env = environment(tmp_path, SAGE_RETRIEVAL__DEFAULTS__EMBEDDER="none", SAGE_API__ACCESS_LOG="false")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["200", "1"], done.stderr
