"""Jobs of many lines as they are checked before one is accepted, by the function that the routes call."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from gateway_thread import GatewayThread
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InvalidRequest, NotFound, PermissionDenied, SageError
from sage.middleware.auth.principal import LOCAL, Principal, Scope
from sage.middleware.gateway.jobs.lines import InvalidLines, LineLimits, LineReader
from sage.middleware.gateway.jobs.options import input_file, query_fields
from sage.middleware.gateway.jobs.requests import CheckedJob, check_job
from sage.middleware.settings.settings import Settings

Check = Callable[..., tuple[CheckedJob, list[dict[str, Any]]]]
HELLO = {"model": "bench", "prompt": "hello"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayThread]:
    providers = {"up": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "k"}}
    models = {name: {"deployments": [{"provider": "up", "model": name}]} for name in ("bench", "other")}
    settings = Settings.model_validate(
        {"data_dir": tmp_path_factory.mktemp("data"), "llm": {"providers": providers, "models": models}}
    )
    with GatewayThread(settings) as running:
        yield running


@pytest.fixture(scope="module")
def check(gateway: GatewayThread) -> Check:
    """Checks a job; gives it and its items."""

    def check(
        fields: dict[str, Any],
        body: bytes | None = None,
        *,
        kind: str = "generate",
        principal: Principal = LOCAL,
        limits: LineLimits | None = None,
        piece: int = 10,
    ) -> tuple[CheckedJob, list[dict[str, Any]]]:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body or b""), piece):
                yield (body or b"")[start : start + piece]

        sink = io.BytesIO()
        own, loop = gateway.running_gateway()
        given = None if body is None else pieces()
        work = check_job(own, principal, kind, fields, given, sink, limits or LineLimits())
        job = asyncio.run_coroutine_threadsafe(work, loop).result(10)
        items = [json.loads(line) for line in sink.getvalue().splitlines()]
        assert len(items) == job.total
        return job, items

    return check


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def refused(check: Check, *args: Any, **options: Any) -> SageError:
    with pytest.raises(SageError) as info:
        check(*args, **options)
    return info.value


def test_one_request_is_a_job_of_one_item(check: Check) -> None:
    job, items = check({**HELLO, "max_tokens": 4, "priority": "high", "metadata": {"run": "1"}})
    assert (job.kind, job.total, job.params) == ("generate", 1, {"single": True})
    assert (job.options.priority, job.options.metadata) == ("high", {"run": "1"})
    assert items == [{**HELLO, "max_tokens": 4}]


def test_a_fault_of_one_request_names_its_field(check: Check) -> None:
    error = refused(check, {**HELLO, "max_tokens": "many"})
    assert isinstance(error, InvalidRequest)
    assert (type(error).__name__, error.param) == ("InvalidRequest", "max_tokens")
    error = refused(check, {"prompt": "hello"})
    assert error.param == "model"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"priority": "urgent"}, "priority"),
        ({"webhook": {"url": ""}}, "webhook.url"),
        ({"webhook": {"url": "https://a.example", "secret": "s"}}, "webhook.secret"),
        ({"time_limit": 0}, "time_limit"),
        ({"expires_after": "soon"}, "expires_after"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"requests": []}, "prompt"),
    ],
)
def test_common_fields_are_strict(check: Check, fields: dict[str, Any], param: str) -> None:
    assert refused(check, {**HELLO, **fields}).param == param


def test_requests_take_defaults_and_keep_their_order(check: Check) -> None:
    requests = [{"custom_id": "a", "prompt": "1"}, {"prompt": "2", "model": "other", "max_tokens": 2}]
    job, items = check({"model": "bench", "max_tokens": 9, "requests": requests})
    assert job.params == {"single": False}
    assert items == [
        {"model": "bench", "max_tokens": 9, "custom_id": "a", "prompt": "1"},
        {"model": "other", "max_tokens": 2, "prompt": "2"},
    ]


def test_faults_of_requests_are_named_by_their_place(check: Check) -> None:
    error = refused(check, {"model": "bench", "requests": [{"prompt": "1"}, {}, {"prompt": "2", "max_tokens": -5}, 7]})
    assert isinstance(error, InvalidLines)
    assert [(fault.line, fault.param) for fault in error.faults] == [(1, None), (2, "max_tokens"), (3, None)]
    assert "requests[1]: give either 'prompt' or 'messages'" in error.message
    assert error.param == "requests"


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_ndjson_is_read_in_pieces_of_any_size(check: Check, piece: int) -> None:
    body = b"\xef\xbb\xbf" + lines(HELLO) + b"\r\n  \n" + lines({"prompt": "好", "custom_id": "2"})[:-1]
    _, items = check({"model": "bench", "max_tokens": 3}, body, piece=piece)
    assert items == [{**HELLO, "max_tokens": 3}, {"model": "bench", "max_tokens": 3, "prompt": "好", "custom_id": "2"}]


def test_every_faulty_line_is_named_up_to_twenty(check: Check) -> None:
    body = lines(HELLO, {"prompt": ""}) + b"{no json}\n\n[1]\n" + lines({**HELLO, "stop": 5})
    error = refused(check, {}, body)
    assert isinstance(error, InvalidLines)
    assert [(fault.line, fault.param, fault.code) for fault in error.faults] == [
        (2, "model", "invalid_request"),
        (3, None, "invalid_json"),
        (5, None, "invalid_json"),
        (6, "stop", "invalid_request"),
    ]
    assert "line 3: the line is not JSON" in error.message
    assert error.envelope()["error"]["lines"][0]["line"] == 2
    error = refused(check, {}, lines(*[{}] * 500))
    assert isinstance(error, InvalidLines)
    assert [fault.line for fault in error.faults] == list(range(1, 21))


def test_a_custom_id_stands_once(check: Check) -> None:
    error = refused(check, {}, lines(*({**HELLO, "custom_id": name} for name in ("a", "b", "a", 5))))
    assert isinstance(error, InvalidLines)
    assert [(fault.line, fault.param) for fault in error.faults] == [(3, "custom_id"), (4, "custom_id")]


def test_lines_have_bounds(check: Check) -> None:
    few = LineLimits(max_lines=2, max_line=60)
    assert refused(check, {}, lines(HELLO, HELLO, HELLO), limits=few).code == "too_many_lines"
    error = refused(check, {}, lines(HELLO, {**HELLO, "prompt": "x" * 100}, HELLO), limits=few)
    assert isinstance(error, InvalidLines)
    assert [(fault.line, fault.code) for fault in error.faults] == [(2, "line_too_long")]
    assert refused(check, {}, b"\n \n").code == "no_lines"
    assert refused(check, HELLO, lines(HELLO)).param == "prompt"
    assert refused(check, {"model": "bench", "requests": []}).code == "no_lines"
    assert refused(check, {"model": "bench"}).param == "requests"


@pytest.mark.slow
def test_what_lines_share_counts_once_for_each(check: Check) -> None:
    shared = {"model": "bench", "note": "x" * 1_000_000}
    error = refused(check, {**shared, "requests": [{"prompt": str(number)} for number in range(100)]})
    assert (error.code, "requests[67]" in error.message) == ("job_too_large", True), error.message
    small = LineLimits(max_job=3000)
    question = {"question": "q", "messages": [{"role": "user", "content": "x" * 1000}]}
    error = refused(check, {"models": ["bench", "other"]}, lines(question, question), kind="evaluate", limits=small)
    assert (error.code, "line 2" in error.message) == ("job_too_large", True)


def test_halves_of_surrogate_pairs_are_mended(check: Check) -> None:
    _, items = check({}, b'{"model": "bench", "prompt": "cut \\ud83d here"}\n')
    assert items[0]["prompt"] == "cut \ufffd here"


def test_models_are_looked_up_and_at_fault_with_their_line(check: Check) -> None:
    error = refused(check, {"model": "nothing", "requests": [{"prompt": "1"}, {"prompt": "2"}]})
    assert isinstance(error, NotFound)
    assert "nothing" in error.message
    error = refused(check, {}, lines(HELLO, {**HELLO, "model": "nothing"}, {**HELLO, "models": ["other", "gone"]}))
    assert isinstance(error, InvalidLines)
    assert [(fault.line, fault.code) for fault in error.faults] == [(2, "model_not_found"), (3, "model_not_found")]
    error = refused(check, {"requests": [{**HELLO, "model": "nothing"}, HELLO, HELLO]})
    assert isinstance(error, InvalidLines)
    assert [fault.line for fault in error.faults] == [0]
    error = refused(check, {}, lines(*({**HELLO, "model": f"m{i}"} for i in range(65))))
    assert "may name 64 models" in error.message


def test_the_rights_of_the_caller_hold_for_lines(check: Check) -> None:
    narrow = Principal("u", "t", frozenset({Scope.GENERATE}), models=("bench",))
    error = refused(check, {}, lines(HELLO, {**HELLO, "model": "other"}), principal=narrow)
    assert (type(error), error.code) == (PermissionDenied, "model_not_allowed")
    for fields, scope in (({"memory": {"session_id": "s"}}, "memory"), ({"search": {"collection": "c"}}, "search")):
        error = refused(check, {}, lines(HELLO, {**HELLO, **fields}), principal=narrow)
        assert (error.code, f"'{scope}'" in error.message) == ("missing_scope", True)


def test_search_and_memory_are_checked_as_generate_does(check: Check) -> None:
    error = refused(check, {**HELLO, "search": {"collection": "gone"}})
    assert (error.status, "gone" in error.message) == (404, True)
    assert refused(check, {**HELLO, "search": {"top": 3}}).param == "search.top"
    assert refused(check, {**HELLO, "search": {"filter": {"a": {"$no": 1}}}}).status == 400
    assert refused(check, {**HELLO, "memory": {}}).param == "memory.session_id"
    assistant = [{"role": "assistant", "content": "hi"}]
    error = refused(check, {"model": "bench", "messages": assistant, "memory": {"session_id": "s"}})
    assert error.param == "messages"


def test_texts_to_embed(check: Check) -> None:
    job, items = check({"model": "bench", "input": ["a", "b"], "dimensions": 3}, kind="embed")
    assert (job.kind, job.total) == ("embed", 2)
    assert items == [{"model": "bench", "dimensions": 3, "input": text} for text in "ab"]
    _, items = check({"model": "bench", "input": "one"}, kind="embed")
    assert items == [{"model": "bench", "input": "one"}]
    _, items = check({"model": "bench"}, lines({"input": "a", "custom_id": "x"}), kind="embed")
    assert items == [{"model": "bench", "input": "a", "custom_id": "x"}]


def test_texts_to_embed_are_refused(check: Check) -> None:
    error = refused(check, {"model": "bench", "input": ["a", "", 5, ["b"]]}, kind="embed")
    assert isinstance(error, InvalidLines)
    assert [fault.line for fault in error.faults] == [1, 2, 3]
    assert "input[1]: 'input' must be a text that is not empty" in error.message
    assert refused(check, {"input": ["a"]}, kind="embed").param == "input"
    assert refused(check, {"model": "bench", "input": ["a"], "dimensions": "3"}, kind="embed").param == "dimensions"
    assert refused(check, {"model": "bench"}, kind="embed").param == "input"
    assert refused(check, {"model": "nothing", "input": "a"}, kind="embed").status == 404
    assert refused(check, {"collection": "gone", "input": "a"}, kind="embed").status == 404
    assert refused(check, {"collection": "c", "model": "m", "input": "a"}, kind="embed").param == "collection"


def test_a_collection_names_the_model_of_its_vectors(gateway: GatewayThread, check: Check) -> None:
    own, loop = gateway.running_gateway()
    options = {"embedder": "local"}
    made = asyncio.run_coroutine_threadsafe(own.collections.create(LOCAL, "vectors", options), loop).result(20)
    _, items = check({"collection": "vectors", "input": "a"}, kind="embed")
    assert items == [{"input": "a", "model": made["embedder"]}]


def test_the_fields_of_a_query_string() -> None:
    query = {"model": "5", "max_tokens": "5", "webhook": "https://a.example/x", "metadata": '{"a": "b"}', "stop": "\n"}
    assert query_fields(query) == {
        "model": "5",
        "max_tokens": 5,
        "webhook": {"url": "https://a.example/x"},
        "metadata": {"a": "b"},
        "stop": "\n",
    }
    fields: dict[str, Any] = {"input_file_id": "file-1", "model": "m"}
    assert (input_file(fields), fields) == ("file-1", {"model": "m"})
    with pytest.raises(InvalidRequest, match="input_file_id"):
        input_file({"input_file_id": 5})


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2), min_size=1), st.integers(1, 9))
def test_lines_come_through_however_they_are_cut(values: list[dict[str, str]], size: int) -> None:
    body, sink = lines(*values), io.BytesIO()
    reader = LineReader(lambda value, number: ({**value, "number": number},), sink, LineLimits())
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.end()
    assert [json.loads(line) for line in sink.getvalue().splitlines()] == [
        {**value, "number": number} for number, value in enumerate(values, 1)
    ]
    assert reader.items == len(values)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    sink = io.BytesIO()
    reader = LineReader(lambda value, number: (value,), sink, LineLimits(max_line=50))
    with contextlib.suppress(InvalidRequest):
        reader.feed(body)
        reader.end()
    assert len(sink.getvalue().splitlines()) == reader.items


CAPITAL = {"question": "What is the capital of France?", "expected": "Paris"}


def test_every_question_goes_to_every_model(check: Check) -> None:
    questions = [CAPITAL, {"id": "x", "question": "2+2?", "expected": 4, "metadata": {"kind": "sum"}}]
    job, items = check(
        {"questions": questions, "models": ["bench", "other"], "prompt": "In one word: {question}", "max_tokens": 5},
        kind="evaluate",
    )
    assert [(item["system"], item["about"]["id"], item["generate"]["model"]) for item in items] == [
        (0, "0", "bench"),
        (1, "0", "other"),
        (0, "x", "bench"),
        (1, "x", "other"),
    ]
    assert items[3]["generate"]["messages"] == [{"role": "user", "content": "In one word: 2+2?"}]
    assert items[3]["generate"]["max_tokens"] == 5
    assert items[3]["about"] == {"id": "x", "question": "2+2?", "expected": 4, "metadata": {"kind": "sum"}}
    assert job.params["answers"] == [{"model": name, "collection": None} for name in ("bench", "other")]
    assert (job.params["questions"], job.params["judge"], job.params["searches"]) == (2, None, [])


def test_models_answer_from_collections_and_rankings_are_judged(gateway: GatewayThread, check: Check) -> None:
    own, loop = gateway.running_gateway()
    options = {"embedder": "local"}
    asyncio.run_coroutine_threadsafe(own.collections.create(LOCAL, "docs", options), loop).result(20)
    fields = {
        "models": ["bench"],
        "collections": ["docs", {"collection": "docs", "mode": "bm25", "top_k": 2}],
        "metrics": ["f1", "ndcg@5", "recall@20"],
        "judge": "other",
        "seed": 3,
    }
    body = lines({**CAPITAL, "relevant": ["d1"]}, {**CAPITAL, "relevant": {"d1": 2, "d2": 0}}, CAPITAL)
    job, items = check(fields, body, kind="evaluate")
    assert [item["system"] for item in items] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert items[1]["generate"]["search"] == {
        "collection": "docs",
        "mode": "bm25",
        "top_k": 2,
        "syntax": "plain",
        "query": CAPITAL["question"],
    }
    assert items[3]["search"] == {**items[1]["generate"]["search"], "top_k": 20}
    assert items[2]["about"]["relevant"] == {"d1": 1.0}
    assert items[6]["about"]["relevant"] == {"d1": 2.0, "d2": 0.0}
    assert job.params["searches"] == [
        {"collection": "docs", "mode": "hybrid"},
        {"collection": "docs (bm25)", "mode": "bm25"},
    ]
    assert job.params["ranking_metrics"] == ["ndcg@5", "recall@20"]
    assert (job.params["answer_metrics"], job.params["judge"]["model"], job.params["seed"]) == (["f1"], "other", 3)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, None),
        ({"models": ["bench"], "metrics": ["f2"]}, "metrics"),
        ({"models": ["bench"], "metrics": ["judge"]}, "metrics"),
        ({"models": ["bench"], "metrics": ["ndcg@1000000"]}, "metrics"),
        ({"models": ["bench"], "prompt": "no place"}, "prompt"),
        ({"models": ["bench", "bench"]}, None),
        ({"models": [f"m{i}" for i in range(33)]}, "models"),
        ({"collections": ["c"], "judge": "bench"}, None),
        ({"models": ["bench"], "judge": {"model": "other", "rubrik": "x"}}, "judge.rubrik"),
        ({"models": ["bench"], "temprature": 1}, "temprature"),
        ({"collections": [{"collection": "docs", "filter": {"a": {"$no": 1}}}]}, "filter"),
        ({"collections": ["gone"], "models": ["bench"]}, "collection"),
        ({"models": ["nothing"]}, "model"),
        ({"models": ["bench"], "judge": "nothing"}, "model"),
    ],
)
def test_an_evaluation_is_refused_by_its_field(check: Check, fields: dict[str, Any], param: str | None) -> None:
    error = refused(check, {"questions": [CAPITAL], **fields}, kind="evaluate")
    assert not isinstance(error, InvalidLines)
    assert error.param == param, error.message


def test_questions_are_refused_by_their_line(check: Check) -> None:
    bad = [
        {"question": " "},
        {"question": "q", "expected": {"regex": "("}},
        {"question": "q", "relevant": {"d": 0}},
        {"question": "q", "relevant": []},
        {"question": "q", "wanted": "x"},
        {"question": "q", "id": "0"},
        {"question": "q", "expected": []},
        {"question": "q", "messages": [{"content": "x"}]},
    ]
    error = refused(check, {"models": ["bench"]}, lines(CAPITAL, *bad), kind="evaluate")
    assert isinstance(error, InvalidLines)
    assert [fault.line for fault in error.faults] == list(range(2, 10))
    assert [fault.param for fault in error.faults[:6]] == [
        "question",
        "expected",
        "relevant",
        "relevant",
        "wanted",
        "id",
    ]
    assert refused(check, {"models": ["bench"]}, kind="evaluate").param == "questions"
