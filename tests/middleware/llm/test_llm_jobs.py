"""Durable jobs from Python: of a service that serves nobody, of one that serves, and across programs that end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from sage_process import environment
from upstream import Received, Script, Upstream, openai_like, reply

from sage.api.local_environment import LocalEnvironment
from sage.errors import CallFailed, ConfigError, DeadlineExceeded
from sage.middleware.llm import JobHandle, JobsClient, JobUnsuccessful, LLMService
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow


class Echo:
    """An upstream's answers: the question, or an error, or nothing until :attr:`gate` is set, as the question says."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def __call__(self, request: Received) -> Script:
        question = asked(request)
        if "bad" in question:
            return reply(status=400)
        script = openai_like(request)
        if "step" in question:
            script = replace(script, writes=((0.15, script.writes[0][1]),))
        return replace(script, gate=self.gate) if "slow" in question else script


def asked(request: Received) -> str:
    messages = request.body.get("messages")
    return str(messages[-1]["content"]) if messages else ""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        upstream.handler = Echo()
        yield upstream


@pytest.fixture
def gate(upstream: Upstream) -> Iterator[threading.Event]:
    assert isinstance(upstream.handler, Echo)
    yield upstream.handler.gate
    upstream.handler.gate.set()
    upstream.handler.gate = threading.Event()


@pytest.fixture(scope="module")
def settings(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    provider = {"kind": "openai", "base_url": upstream.url, "api_key": "secret"}
    return Settings.model_validate(
        {
            "data_dir": tmp_path_factory.mktemp("jobs") / "data",
            "api": {"access_log": False},
            "llm": {
                "providers": {"up": provider},
                "models": {"bench": {"deployments": [{"provider": "up", "model": "bench"}]}},
            },
        }
    )


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[LLMService]:
    with LLMService(settings) as service:
        service.register_model("mine", provider="up")
        yield service


def questions(*prompts: str) -> list[dict[str, Any]]:
    return [{"custom_id": prompt, "prompt": prompt} for prompt in prompts]


def texts(job: JobHandle) -> list[Any]:
    return [line["response"]["text"] if "response" in line else line["error"]["code"] for line in job.results(60)]


def test_many_requests_and_their_results_in_order(service: LLMService) -> None:
    job = service.submit("generate", model="mine", requests=questions("one", "bad", "three"), metadata={"run": "7"})
    assert not service.is_serving
    results = texts(job)
    assert (results[0], results[2]) == ("one", "three")
    assert isinstance(results[1], str)
    assert (job.state, job.kind) == ("succeeded", "generate")
    assert (job.progress["total"], job.progress["done"], job.progress["failed"]) == (3, 2, 1)
    assert job.result()["failed"] == 1
    found = service.jobs.job(job.id)
    assert found.refresh()["metadata"] == {"run": "7"}
    assert job.id in [one.id for one in service.jobs.list(kind="generate", state="succeeded")]
    job.forget()
    with pytest.raises(CallFailed, match="there is no job") as missing:
        found.refresh()
    assert missing.value.answer_status == 404


def test_one_request_has_its_answer_and_one_key_one_job(service: LLMService) -> None:
    first = service.submit("generate", model="bench", prompt="hello", idempotency_key="k")
    again = service.submit("generate", model="bench", prompt="hello", idempotency_key="k")
    assert first.id == again.id
    assert first.result(60)["text"] == "hello"
    failed = service.submit("generate", model="bench", prompt="bad")
    with pytest.raises(JobUnsuccessful, match=rf"the job {failed.id} has not succeeded") as caught:
        failed.result(60)
    assert caught.value.job["state"] == "failed"


def test_on_an_event_loop(service: LLMService) -> None:
    async def ask() -> tuple[str, list[str]]:
        one = await service.asubmit("generate", model="bench", prompt="awaited")
        many = await service.asubmit("generate", model="bench", requests=questions("a", "b"))
        async with asyncio.timeout(60):
            return (await one)["text"], [line["response"]["text"] async for line in many.aresults()]

    assert asyncio.run(ask()) == ("awaited", ["a", "b"])


def test_waiting_has_an_end_and_a_cancelled_job_is_retried(
    service: LLMService, upstream: Upstream, gate: threading.Event
) -> None:
    upstream.requests.clear()
    job = service.submit("generate", model="bench", requests=questions("fast", "slow"))
    received = upstream.wait_requests(2, 60)
    with pytest.raises(DeadlineExceeded, match=r"has not ended within 0\.1 s"):
        job.wait(0.1)
    job.cancel()
    assert job.wait(60)["state"] == "cancelled"
    slow = next(one for one in received if asked(one) == "slow")
    assert slow.closed.wait(10), "the upstream's call was not closed"
    job.cancel()  # has ended: nothing happens
    gate.set()
    job.retry()
    assert texts(job) == ["fast", "slow"]


def test_what_is_refused_says_so_at_once(service: LLMService) -> None:
    for fields, message in (({"model": "nope", "prompt": "a"}, "nope"), ({"model": "bench"}, "no work")):
        with pytest.raises(CallFailed, match=message) as refused:
            service.submit("generate", **fields)
        assert refused.value.answer_status in (400, 404)


def test_the_server_of_the_workers_is_nobody_elses(service: LLMService, settings: Settings) -> None:
    private = service._connect_jobs()
    for headers in ({}, {"Authorization": "Bearer guess"}):
        answer = requests.get(f"{private.url}/health", headers=headers, timeout=10)
        assert answer.status_code == 401
    with (
        LLMService(settings) as other,
        pytest.raises(ConfigError, match=r"another gateway has the jobs in .*JobsClient"),
    ):
        other.submit("generate", model="bench", prompt="a")


def test_a_stage_hands_its_records_to_the_queue(service: LLMService) -> None:
    env = LocalEnvironment("test", {"discovery": None, "jobs": service.jobs})
    stream = env.from_batch(["one", "bad", "three"])
    answers = stream.enqueue("generate", model="bench", wait=True, on_error="skip", combine=lambda a, b: (a, b["text"]))
    assert answers.collect() == [("one", "one"), ("three", "three")]
    vectors = env.from_batch(["ab", "abcd"]).enqueue("embed", model="bench", wait=True).collect()
    assert [vector[0] for vector in vectors] == [2.0, 4.0]


def test_handles_survive_that_the_service_begins_to_serve(service: LLMService, gate: threading.Event) -> None:
    job = service.submit("generate", model="bench", requests=questions("slow"))
    assert job.state in ("queued", "running")
    threading.Timer(0.5, gate.set).start()
    service.start(port=0)
    assert texts(job) == ["slow"]
    assert service.url is not None
    over_http = JobsClient(service.url).submit("generate", {"model": "bench", "prompt": "from outside"})
    assert over_http.result(60)["text"] == "from outside"


def test_jobs_of_a_program_that_has_ended_go_on_in_the_next(upstream: Upstream, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"llm: {{providers: {{up: {{kind: openai, base_url: '{upstream.url}', api_key: secret}}}}, "
        "models: {bench: {deployments: [{provider: up, model: bench}]}}}\n"
    )
    env = environment(tmp_path / "data", SAGE_CONFIG=str(config))
    program = "import sys, time\nfrom sage.middleware.llm import LLMService\nservice = LLMService()\n"

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", program + code, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    upstream.requests.clear()
    job = run(
        "job = service.submit('generate', model='bench', requests=[{'prompt': f'step {n}'} for n in range(48)])\n"
        "while job.progress['done'] < 8: time.sleep(0.01)\n"
        "print(job.id)\n"
    )
    before = len(upstream.requests)
    assert 8 <= before < 48
    lines = run("for line in service.jobs.job(sys.argv[1]).results(60): print(line['response']['text'])\n", job)
    assert lines.splitlines() == [f"step {n}" for n in range(48)]
    assert sorted(map(asked, upstream.requests)) == sorted(f"step {n}" for n in range(48)), "what was done is done"
