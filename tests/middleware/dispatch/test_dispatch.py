"""How a request finds its deployment: keys, further attempts, deadlines, the choice and its explanation."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import SCRIPTED
from upstream import Received, Script, Upstream, chat_chunk, openai_like, reply

from sage.middleware.dispatch import retry_budget as retries
from sage.middleware.dispatch.balancing import choose

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

CHAT = "/v1/chat/completions"


@pytest.fixture
def ups() -> Iterator[Callable[[], Upstream]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


def replicas(gateway: Callable, *found: Upstream, routing: dict | None = None, model: dict | None = None, **provider):
    """A gateway whose model ``bench`` has a deployment at each of ``found``, all equal."""
    providers = {
        f"up{number}": {"kind": "openai", "base_url": up.url, "api_key": "k", **provider}
        for number, up in enumerate(found)
    }
    deployments = [{"provider": name, "model": "m"} for name in providers]
    models = {"bench": {"deployments": deployments, **(model or {})}}
    return gateway(llm={"providers": providers, "models": models, "routing": routing or {}})


def keys_seen(up: Upstream) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in up.requests]


def by_key(**behaviours: Script) -> Callable[[Received], Script]:
    """Answers as told to each key, and like OpenAI to all others."""

    def handler(request: Received) -> Script:
        key = request.headers["authorization"].removeprefix("Bearer ")
        return behaviours.get(key) or openai_like(request)

    return handler


# Keys


def test_requests_take_a_providers_keys_in_turn(ups: Callable, gateway: Callable) -> None:
    up = ups()
    running = replicas(gateway, up, api_key="one", api_keys=["two", "three"])
    for _ in range(6):
        assert running.chat().status_code == 200
    assert keys_seen(up) == ["one", "two", "three"] * 2


@pytest.mark.slow
def test_a_key_that_is_told_to_wait_is_passed_over_until_its_time(ups: Callable, gateway: Callable) -> None:
    up = ups()
    up.reply(status=429, headers={"retry-after": "1"}, times=1)
    running = replicas(gateway, up, api_key="one", api_keys=["two"])
    answer = running.chat()
    assert answer.status_code == 200
    assert answer.headers["x-sage-attempts"] == "2"
    assert keys_seen(up) == ["one", "two"]
    told = up.requests[0].at
    cooling = running.get("/models/bench").json()["deployments"][0]["keys"]
    assert cooling[0]["cooling_for"] > 0
    assert cooling[1] == {"index": 1, "cooling_for": 0.0}
    while keys_seen(up).count("one") == 1:
        assert time.monotonic() < told + 20
        assert running.chat().headers["x-sage-attempts"] == "1"
        time.sleep(0.01)
    assert set(keys_seen(up)[1:-1]) == {"two"}
    assert up.requests[-1].at >= told + 1.0


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_asked_last(ups: Callable, gateway: Callable, status: int) -> None:
    up = ups()
    up.handler = by_key(one=reply(status=status))
    running = replicas(gateway, up, api_key="one", api_keys=["two"])
    for _ in range(5):
        assert running.chat().status_code == 200
    assert keys_seen(up) == ["one", "two", "two", "two", "two", "two"]


def test_a_refused_key_without_another_is_asked_again_and_never_twice_in_one_request(
    ups: Callable, gateway: Callable
) -> None:
    up = ups()
    up.reply(status=403, times=1)
    running = replicas(gateway, up)
    assert running.chat(models=["up0/other"]).status_code == 502
    assert len(up.requests) == 1  # the fallback would have gone with the same key
    assert running.chat().status_code == 200


def test_every_key_is_asked_once_and_then_the_client_is_told_to_wait(ups: Callable, gateway: Callable) -> None:
    up = ups()
    up.reply(status=429, headers={"retry-after": "30"})
    running = replicas(gateway, up, api_key="one", api_keys=["two"])
    answer = running.chat()
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "30"
    assert keys_seen(up) == ["one", "two"]


def test_a_failure_that_speaks_of_the_deployment_is_not_tried_with_another_key(
    ups: Callable, gateway: Callable
) -> None:
    found = [ups(), ups()]
    for up in found:
        up.reply(status=500)
    answer = replicas(gateway, *found, api_key="one", api_keys=["two"], retries=1).chat()
    assert answer.status_code == 502
    assert [keys_seen(up) for up in found] == [["one"], ["one"]]


# Further attempts


@pytest.mark.slow
def test_the_budget_of_further_attempts_is_a_fifth_of_the_requests(ups: Callable, gateway: Callable) -> None:
    found = [ups() for _ in range(3)]
    running = replicas(gateway, *found, routing={"breaker_failures": 100_000})
    with ThreadPoolExecutor(4) as pool:
        assert all(answer.status_code == 200 for answer in pool.map(lambda _: running.chat(), range(60)))
    for up in found:
        up.reply(status=500)
    before = sum(len(up.requests) for up in found)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: running.chat(), range(40)))
    assert {answer.status_code for answer in answers} == {502}
    assert sum(len(up.requests) for up in found) - before == 40 + 20  # a fifth of all hundred
    assert running.post("/models/bench/explain", {}).json()["retries"] == {"allowed": 2, "budget_left": 0}


@pytest.mark.parametrize("attempts", [1, 2])
def test_pauses_have_full_jitter(attempts: int) -> None:
    pauses = [retries.pause(attempts) for _ in range(2000)]
    top = 0.1 * 2 ** (attempts - 1)
    assert min(pauses) < 0.05 * top
    assert 0.95 * top < max(pauses) <= top


def test_the_budget_forgets_after_a_minute() -> None:
    budget = retries.RetryBudget()
    for _ in range(100):
        budget.request(0.0)
    assert budget.left(0.0) == 20
    for _ in range(20):
        budget.retry()
    assert budget.left(29.0) == 0
    assert budget.left(31.0) == 0
    assert budget.left(61.0) == 3


# Retry-After


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_a_request_waits_for_a_deployment_that_was_told_to_wait(ups: Callable, gateway: Callable, status: int) -> None:
    up = ups()
    up.reply(status=status, headers={"retry-after": "0.7"}, times=1)
    running = replicas(gateway, up, retries=0)
    refused = running.chat()
    assert refused.status_code == status
    assert refused.headers["retry-after"] == "1"
    with ThreadPoolExecutor(3) as pool:
        waited = [pool.submit(running.chat) for _ in range(3)]
        assert [answer.result().status_code for answer in waited] == [200, 200, 200]
    assert all(answer.result().headers["x-sage-attempts"] == "1" for answer in waited)
    assert min(request.at for request in up.requests[1:]) >= up.requests[0].at + 0.7


def test_a_wait_that_is_too_long_is_refused_without_asking(ups: Callable, gateway: Callable) -> None:
    up = ups()
    up.reply(status=429, headers={"retry-after": "60"}, times=1)
    running = replicas(gateway, up)
    running.chat()
    begun = time.monotonic()
    answer = running.chat()
    assert time.monotonic() - begun < 5
    assert answer.status_code == 429
    assert 40 <= int(answer.headers["retry-after"]) <= 60
    assert "are cooling down" in answer.json()["error"]["message"]
    assert len(up.requests) == 1


def test_a_fallback_is_asked_while_the_model_is_told_to_wait(ups: Callable, upstreams: Callable) -> None:
    first, second = ups(), ups()
    first.reply(status=429, headers={"retry-after": "60"}, times=1)
    running = upstreams(first, second)
    assert running.chat().headers["x-sage-attempts"] == "2"
    answer = running.chat()
    assert answer.headers["x-sage-deployment"] == "up1/theirs-1"
    assert answer.headers["x-sage-attempts"] == "1"
    assert len(first.requests) == 1


# Deadlines


@pytest.mark.slow
def test_one_deadline_holds_over_all_attempts(ups: Callable, gateway: Callable) -> None:
    found = [ups(), ups()]
    for up in found:
        up.reply(status=500, delay=0.7)
    running = replicas(gateway, *found, timeouts={"total": 1.2})
    begun = time.monotonic()
    answer = running.chat()
    assert 1.15 < time.monotonic() - begun < 5
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "total_timeout"
    assert [len(up.requests) for up in found] == [1, 1]


@pytest.mark.slow
def test_a_refusal_whose_text_never_comes_does_not_keep_others_from_answering(ups: Callable, gateway: Callable) -> None:
    first, second = ups(), ups()
    head = b"HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    first.use(Script(((0.0, head),), end="hang"))
    deployments = [{"provider": "up0", "model": "m"}, {"provider": "up1", "model": "m", "priority": 1}]
    answer = replicas(gateway, first, second, model={"deployments": deployments}, timeouts={"total": 20}).chat()
    assert (answer.status_code, answer.headers["x-sage-deployment"]) == (200, "up1/m")
    assert len(first.requests) == 1


@pytest.mark.slow
def test_the_time_of_a_wait_is_part_of_the_whole(ups: Callable, gateway: Callable) -> None:
    up = ups()
    gate = threading.Event()
    up.reply({"choices": [{"message": {}}]}, gate=gate)
    deployments = [{"provider": "up", "model": "m"}]
    models = {"bench": {"deployments": deployments, "timeouts": {"total": 0.4}}, "long": {"deployments": deployments}}
    providers = {"up": {"kind": "openai", "base_url": up.url, "max_concurrency": 1}}
    running = gateway(llm={"providers": providers, "models": models, "routing": {"queue_timeout": 60}})
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(running.chat, "long")
        up.wait_requests(1)
        begun = time.monotonic()
        answer = running.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "total_timeout")
        assert 0.4 <= time.monotonic() - begun < 10
        gate.set()
        assert holding.result().status_code == 200
    assert len(up.requests) == 1


# The choice


def test_the_least_loaded_of_equals_is_asked(ups: Callable, gateway: Callable) -> None:
    found = [ups() for _ in range(3)]
    gate = threading.Event()
    for up in found:
        up.reply({"choices": [{"message": {}}]}, gate=gate)
    running = replicas(gateway, *found)
    with ThreadPoolExecutor(9) as pool:
        answers = []
        for count in range(1, 10):
            answers.append(pool.submit(running.chat))
            _until(lambda count=count: sum(len(up.requests) for up in found) == count)
        assert [len(up.requests) for up in found] == [3, 3, 3]
        gate.set()
        assert {answer.result().status_code for answer in answers} == {200}


def _until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def turn(running, messages: list[dict], text: str, **fields) -> str:
    """Says ``text`` after ``messages``, which grow by it and by the answer; the deployment that answered."""
    messages.append({"role": "user", "content": text})
    answer = running.chat(messages=messages, **fields)
    assert answer.status_code == 200
    messages.append({"role": "assistant", "content": "whatever a client keeps of the answer"})
    return answer.headers["x-sage-deployment"]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_conversations_stay_where_their_beginning_is_cached(ups: Callable, gateway: Callable, stream: bool) -> None:
    running = replicas(gateway, *[ups() for _ in range(4)])
    homes = set()
    for number in range(12):
        messages: list[dict] = [{"role": "system", "content": f"number {number}"}]
        asked = {turn(running, messages, f"turn {count}", stream=stream) for count in range(4)}
        assert len(asked) == 1
        homes |= asked
    assert len(homes) > 1


def test_a_conversation_moves_when_its_home_is_much_busier_or_gone(ups: Callable, gateway: Callable) -> None:
    found = {"up0/m": ups(), "up1/m": ups()}
    running = replicas(gateway, *found.values(), routing={"breaker_failures": 1, "breaker_pause": 60})
    messages: list[dict] = []
    home = turn(running, messages, "hello")
    away = next(name for name in found if name != home)
    gate = threading.Event()
    held = threading.Event()

    def hold(request: Received) -> Script:
        held.set()
        return reply({"choices": [{"message": {}}]}, gate=gate)

    found[home].handler = hold
    others: list = []
    with ThreadPoolExecutor(12) as pool:
        # Fill the home by its own conversations until it has five more running than the other, which answers at once.
        for _ in range(5):
            before = len(found[home].requests)
            others.append(pool.submit(running.chat, messages=[*messages, {"role": "user", "content": "again"}]))
            _until(lambda before=before: len(found[home].requests) == before + 1)
        answer = running.chat(messages=[*messages, {"role": "user", "content": "again"}])
        assert answer.headers["x-sage-deployment"] == away
        gate.set()
        assert {other.result().status_code for other in others} == {200}


def test_what_one_vendor_cannot_do_goes_to_another_without_an_attempt(ups: Callable, gateway: Callable) -> None:
    theirs, ours = ups(), ups()
    providers = {
        "zhipu": {"base_url": theirs.url, "api_key": "k"},
        "up": {"kind": "openai", "base_url": ours.url, "api_key": "k"},
    }
    able = {"provider": "up", "model": "m", "priority": 1}
    models = {
        "bench": {"deployments": [{"provider": "zhipu", "model": "glm-4"}, able]},
        "alone": {"deployments": [{"provider": "zhipu", "model": "glm-4"}]},
    }
    running = gateway(llm={"providers": providers, "models": models})
    answer = running.chat(logit_bias={"1": 5})
    assert answer.status_code == 200
    assert answer.headers["x-sage-deployment"] == "up/m"
    assert answer.headers["x-sage-attempts"] == "1"
    assert ours.requests[0].body["logit_bias"] == {"1": 5}
    told = running.post("/models/bench/explain", {"logit_bias": {"1": 5}}).json()
    assert told["chosen"] == "up/m"
    assert told["candidates"][0]["reason"] == "its vendor cannot do what the request asks"
    told = running.post("/models/alone/explain", {"logit_bias": {"1": 5}}).json()
    assert told["chosen"] is None
    assert "logit_bias" in told["reason"]
    refused = running.chat("alone", logit_bias={"1": 5})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "logit_bias"
    assert "zhipu" in refused.json()["error"]["message"]
    assert theirs.requests == []


@dataclass(frozen=True)
class Candidate:
    name: str
    weight: float
    priority: int
    in_flight: int


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        name=st.sampled_from("abcdefgh"),
        weight=st.sampled_from([1.0, 2.0, 5.0]),
        priority=st.integers(0, 2),
        in_flight=st.integers(0, 12),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda candidate: candidate.name,
)


@given(CANDIDATES, st.sampled_from([None, *"abcdefgh"]))
def test_the_choice_keeps_its_rules(candidates: list[Candidate], home: str | None) -> None:
    chosen, why = choose(candidates, home)
    first = [c for c in candidates if c.priority == min(c.priority for c in candidates)]
    assert chosen in first
    least = min(c.in_flight for c in first)
    at_home = next((c for c in first if c.name == home), None)
    if at_home is not None and at_home.in_flight <= least + 4:
        assert chosen is at_home
    else:
        assert chosen.in_flight == min(c.in_flight for c in first if c.weight == chosen.weight)
    assert why


# What is told


def test_explain_tells_what_would_be_chosen_and_asks_nobody(ups: Callable, gateway: Callable) -> None:
    first, second = ups(), ups()
    providers = {
        "east": {"kind": "openai", "base_url": first.url, "api_key": "sk-very-secret", "api_keys": ["sk-other-secret"]},
        "west": {"kind": "openai", "base_url": second.url, "api_key": "sk-third-secret", "max_concurrency": 3},
    }
    models = {
        "bench": {"deployments": [{"provider": "east", "model": "m"}], "fallbacks": ["spare"], "max_concurrency": 2},
        "spare": {"deployments": [{"provider": "west", "model": "m", "weight": 2}]},
    }
    running = gateway(llm={"providers": providers, "models": models, "routing": {"breaker_failures": 1}})
    told = running.post("/models/bench/explain", {}).json()
    assert told["model"] == "bench"
    assert told["chosen"] == "east/m"
    east, west = told["candidates"]
    assert (east["deployment"], east["of"], east["max_concurrency"], east["usable"]) == ("east/m", "bench", 2, True)
    assert [key["index"] for key in east["keys"]] == [0, 1]
    assert (west["deployment"], west["of"], west["weight"]) == ("west/m", "spare", 2)
    assert west["provider_max_concurrency"] == 3
    assert first.requests == second.requests == []
    first.reply(status=500, times=1)
    assert running.chat().headers["x-sage-deployment"] == "west/m"
    told = running.post("/models/bench/explain", {})
    east = told.json()["candidates"][0]
    assert east["breaker"]["state"] == "open"
    assert "answered 500" in east["breaker"]["last_failure"]
    assert not east["usable"]
    assert east["reason"] == "its breaker is open"
    assert told.json()["chosen"] == "west/m"
    assert "fallback 'spare'" in told.json()["reason"]
    assert "secret" not in told.text
    narrow = running.new_key(models=["bench"])
    seen = running.post("/models/bench/explain", {}, key=narrow).json()
    assert [candidate["of"] for candidate in seen["candidates"]] == ["bench"]
    assert seen["chosen"] is None
    assert "left alone" in seen["reason"]
    assert running.post("/models/spare/explain", {}, key=narrow).status_code in (403, 404)
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_fallbacks_of_fallbacks_answer_each_once_and_circles_are_harmless(ups: Callable, gateway: Callable) -> None:
    up = ups()
    provider = {"up": {"kind": "openai", "base_url": up.url, "api_key": "k"}}

    def model(name: str, *fallbacks: str) -> dict:
        return {"deployments": [{"provider": "up", "model": name}], "fallbacks": list(fallbacks)}

    models = {
        "a": model("a", "b", "c"),
        "b": model("b", "a", "d", "b"),
        "c": model("c", "gone", "d"),
        "d": model("d", "a"),
    }
    running = gateway(llm={"providers": provider, "models": models})

    def order(key: str | None = None, **fields: object) -> list[str]:
        told = running.post("/models/a/explain", fields, key=key).json()
        return [candidate["of"] for candidate in told["candidates"]]

    assert order() == ["a", "b", "c", "d"]
    assert order(models=["d"]) == ["a", "d", "b", "c"]
    assert order(running.new_key(models=["a", "b", "d"])) == ["a", "b", "d"]
    up.handler = lambda request: openai_like(request) if request.body["model"] == "d" else reply(status=500)
    answer = running.chat("a", key=running.new_key(models=["a", "b", "d"]))
    assert answer.headers["x-sage-deployment"] == "up/d"
    assert [request.body["model"] for request in up.requests if request.body] == ["a", "b", "d"]


@pytest.mark.slow
def test_a_deployment_whose_only_key_was_refused_comes_last_and_explain_says_so(
    ups: Callable, gateway: Callable
) -> None:
    east, west = ups(), ups()
    east.reply(status=401)
    running = replicas(gateway, east, west)
    while not east.requests:
        assert running.chat().status_code == 200
    told = running.post("/models/bench/explain", {}).json()
    assert told["chosen"] == "up1/m"
    assert [candidate["usable"] for candidate in told["candidates"]] == [False, True]
    assert "refused its key" in told["candidates"][0]["reason"]
    for _ in range(10):
        assert running.chat().headers["x-sage-attempts"] == "1"
    assert len(east.requests) == 1
    west.reply(status=401)
    east.reset()  # its key was put right
    assert running.chat().headers["x-sage-deployment"] == "up0/m"


def test_explain_says_that_the_only_deployment_cannot_answer_with_a_refused_key(
    ups: Callable, gateway: Callable
) -> None:
    up = ups()
    up.reply(status=403)
    running = replicas(gateway, up)
    assert running.chat().status_code == 502
    told = running.post("/models/bench/explain", {}).json()
    [candidate] = told["candidates"]
    assert (candidate["usable"], candidate["free_in"]) == (False, None)
    assert candidate["keys"][0]["cooling_for"] > 0
    assert told["reason"] == "it is the only one that can answer now, though its upstream has refused its key"


def test_fallbacks_go_before_an_invalid_key_and_a_403_moves_nobody(ups: Callable, gateway: Callable) -> None:
    east, west = ups(), ups()
    east.handler = lambda request: reply(status=403) if request.body["model"] == "secret" else openai_like(request)
    providers = {
        "east": {"kind": "openai", "base_url": east.url, "api_key": "k"},
        "west": {"kind": "openai", "base_url": west.url, "api_key": "k"},
    }
    models = {
        "bench": {"deployments": [{"provider": "east", "model": "m"}], "fallbacks": ["spare"]},
        "spare": {"deployments": [{"provider": "west", "model": "m"}]},
    }
    running = gateway(llm={"providers": providers, "models": models})
    assert running.chat("east/secret").status_code == 502
    assert running.chat().headers["x-sage-deployment"] == "east/m"
    east.handler = lambda request: reply(status=401)
    assert running.chat().headers["x-sage-attempts"] == "2"
    asked = len(east.requests)
    assert [running.chat().headers["x-sage-attempts"] for _ in range(3)] == ["1"] * 3
    assert len(east.requests) == asked
    told = running.post("/models/bench/explain", {}).json()
    assert (told["chosen"], [one["usable"] for one in told["candidates"]]) == ("west/m", [False, True])
    east.reset()
    west.reply(status=500)
    assert running.chat().headers["x-sage-deployment"] == "east/m"


def test_explain_draws_no_key_and_no_probe(ups: Callable, gateway: Callable) -> None:
    up = ups()
    running = replicas(gateway, up, api_key="one", api_keys=["two"])
    for _ in range(3):
        running.post("/models/bench/explain", {})
    running.chat()
    assert keys_seen(up) == ["one"]


def test_a_conversations_home_is_told(ups: Callable, gateway: Callable) -> None:
    running = replicas(gateway, ups(), ups())
    messages: list[dict] = []
    home = turn(running, messages, "hello")
    asked = {"messages": [*messages, {"role": "user", "content": "more"}]}
    told = running.post("/models/bench/explain", asked).json()
    assert told["sticky"] == told["chosen"] == home
    assert "previous turn" in told["reason"]


@pytest.mark.slow
def test_streams_carry_what_was_chosen(ups: Callable, gateway: Callable) -> None:
    found = [ups(), ups()]
    found[0].reply(status=500)
    found[1].stream([chat_chunk("hi"), chat_chunk(None, "stop")])
    running = replicas(gateway, *found)
    for _ in range(3):  # each may need one of the three further attempts that there are in any case
        answer = running.chat(stream=True)
        assert answer.headers["x-sage-deployment"] == "up1/m"
        assert answer.headers["x-sage-attempts"] in ("1", "2")


@pytest.mark.slow
def test_an_engine_that_dies_under_a_request_leaves_it_to_another_deployment(ups: Callable, gateway: Callable) -> None:
    fake = str(SCRIPTED / "fake_vllm.py")
    up = ups()
    providers = {
        "vllm": {"command": [sys.executable, "-I", "-S", fake]},
        "up": {"kind": "openai", "base_url": up.url},
    }
    managed = {"provider": "vllm", "model": "some/model", "engine": {"args": ["--misbehave", "crashes"]}}
    models = {"bench": {"deployments": [managed, {"provider": "up", "model": "m", "priority": 1}]}}
    running = gateway(llm={"providers": providers, "models": models, "routing": {"breaker_failures": 1}})
    answer = running.post("/v1/completions", {"model": "bench", "prompt": "x"})
    assert answer.status_code == 200
    assert answer.headers["x-sage-deployment"] == "up/m"
    assert answer.headers["x-sage-attempts"] == "2"
    # The engine is its owner's to start again; no breaker keeps the next request from it.
    assert running.chat().headers["x-sage-deployment"] == "vllm/some/model"
