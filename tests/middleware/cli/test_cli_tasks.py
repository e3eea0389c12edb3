"""``sage tasks`` against a running gateway, whose worker is moved step by step."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hand_worker import HandWorker
from running_gateway import Running, run_gateway
from sage_process import SAGE, Sage, environment, sage
from upstream import Upstream

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Upstream() as upstream:
        settings = {
            "data_dir": tmp_path_factory.mktemp("tasks") / "data",
            "api": {"port": 0, "access_log": False},
            "queue": {"embedded_worker": False},
            "llm": {
                "providers": {"up": {"kind": "openai", "base_url": upstream.url, "api_key": "secret"}},
                "models": {"bench": {"deployments": [{"provider": "up", "model": "bench"}]}},
            },
        }
        with run_gateway(Settings.model_validate(settings)) as running:
            yield running


@pytest.fixture
def worker(running: Running) -> Iterator[HandWorker]:
    worker = HandWorker(running)
    worker.post("/worker/hello", {"worker": "hand", "concurrency": 4})
    yield worker
    worker.post("/worker/goodbye", {"worker": "hand"}, 204)
    for job in running.get("/tasks").json()["tasks"]:  # what the test has left
        running.request("DELETE", f"/tasks/{job['id']}")
    worker.drop_messages()


@pytest.fixture
def env(running: Running, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path / "mine", SAGE_URL=running.url, SAGE_API_KEY=running.key, COLUMNS="120")


@pytest.fixture
def run(env: dict[str, str], tmp_path: Path) -> Sage:
    def call(*words: str, stdin: str = "", status: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        done = sage(["tasks", *words], {**env, **extra}, cwd=tmp_path, stdin=stdin)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return call


def claimed(worker: HandWorker) -> str:
    """The run of the next job, with its lines leased."""
    run: str = worker.claim()["run"]
    worker.items(run)
    return run


def answered(*indexes: int) -> list[dict[str, object]]:
    return [{"index": index, "line": {"index": index, "status": 200, "response": {"text": "ok"}}} for index in indexes]


def failed_line(index: int) -> dict[str, object]:
    error = {"message": "no model answers", "code": "upstream_failed"}
    return {"index": index, "ok": False, "line": {"index": index, "status": 502, "error": error}}


def test_a_file_of_prompts_from_its_submission_to_its_results(
    run: Sage, worker: HandWorker, running: Running, tmp_path: Path
) -> None:
    (tmp_path / "questions.jsonl").write_text('"one"\n{"prompt": "two", "custom_id": "b"}\n"three"\n')
    done = run("generate", "questions.jsonl", "--model", "bench", "--priority", "high", "--expires-after", "1h")
    job = done.stdout.strip()
    assert re.fullmatch(r"job_\w+", job)
    assert done.stderr == f"to see how far it is: sage tasks watch {job}\n"
    claim = worker.claim()
    items = worker.items(claim["run"])["items"]
    assert [item["body"] for item in items] == [
        {"model": "bench", "prompt": "one"},
        {"model": "bench", "prompt": "two", "custom_id": "b"},
        {"model": "bench", "prompt": "three"},
    ]
    worker.record(claim["run"], *answered(2, 0), failed_line(1))
    worker.finish(claim["run"])
    shown = run("show", job).stdout
    assert shown.startswith(f"{job}: generate, succeeded\n")
    assert "progress: 3/3, failed: 1" in shown
    assert "priority: high" in shown
    view = running.get(f"/tasks/{job}").json()
    assert round(view["expires_at"] - view["finished_at"]) == 3600
    head, row = run("list", "--limit", "1").stdout.splitlines()
    assert head.split() == ["JOB", "KIND", "STATE", "DONE", "FAILED", "USER", "CREATED", "TIME"]
    assert row.split()[:6] == [job, "generate", "succeeded", "3/3", "1", "root"]
    lines = [json.loads(line) for line in run("results", job).stdout.splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line.get("error", {}).get("code") for line in lines] == [None, "upstream_failed", None]
    assert run("results", job, "-o", "out.jsonl").stderr == f"{job}: 3 results in out.jsonl\n"
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == lines
    assert run("retry", job).stdout == f"{job}: queued\n"
    assert run("cancel", job).stdout == f"{job}: cancelled\n"
    assert run("delete", job).stdout == f"{job}: deleted\n"
    assert running.get(f"/tasks/{job}").status_code == 404


def test_what_is_refused_is_one_line(run: Sage, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    for words, stdin, text in (
        (["generate", "-", "-m", "bench"], '{"prompt": "a", "temperature": "warm"}\n', "line 1"),
        (["ingest", "c", "dir"], "", "dir is a directory"),
        (["submit", "nonsense", "-"], "{}", "nonsense"),
        (["watch", "job_none"], "", "there is no job"),
    ):
        done = run(*words, stdin=stdin, status=1)
        assert done.stdout == ""
        assert done.stderr.startswith("sage: ")
        assert text in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert "name a FILE" in run("ingest", "c", status=2).stderr


def test_the_same_submission_again_is_the_first_job(run: Sage, worker: HandWorker) -> None:
    words = ("generate", "-", "-m", "bench", "--idempotency-key", "k1", "--json")
    first, again = (json.loads(run(*words, stdin='"a"\n').stdout) for _ in range(2))
    assert first["id"] == again["id"]


class Cut:
    """A proxy before the gateway whose connections can be cut."""

    def __init__(self, url: str) -> None:
        self._to = url.removeprefix("http://").split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.accepted = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here = self._listener.accept()[0]
                there = socket.create_connection((self._to[0], int(self._to[1])))
                self._open += [here, there]
                for source, target in ((here, there), (there, here)):
                    self._threads.append(threading.Thread(target=self._copy, args=(source, target), daemon=True))
                    self._threads[-1].start()
                self.accepted.release()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        while self._open:
            sock = self._open.pop()
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()


@contextmanager
def watching(env: dict[str, str], cwd: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*SAGE, "tasks", "watch", *words], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def submitted(running: Running, count: int = 1) -> list[str]:
    requests = [{"prompt": prompt} for prompt in ("a", "b", "c")]
    answers = [running.post("/tasks/generate", {"model": "bench", "requests": requests}) for _ in range(count)]
    return [answer.json()["id"] for answer in answers]


def test_watch_goes_on_when_the_stream_breaks_and_tells_of_what_failed(
    worker: HandWorker, running: Running, env: dict[str, str], tmp_path: Path
) -> None:
    (job,), proxy = submitted(running), Cut(running.url)
    try:
        with watching({**env, "SAGE_URL": proxy.url}, tmp_path, job) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{job}: queued, 0/3\n"
            proxy.cut()
            claim = claimed(worker)
            worker.record(claim, *answered(0), failed_line(1))
            while "2/3, failed: 1" not in (line := process.stdout.readline()):
                assert line.startswith(f"{job}: running, 0/3")
            worker.finish(claim, state="failed", error={"message": "the model is gone", "code": "gone"}, retry=False)
            rest, errors = process.communicate(timeout=30)
        assert rest.splitlines()[-1].startswith(f"{job}: failed, ")
        assert rest.endswith(": the model is gone\n")
        assert process.returncode == 1
        assert errors.startswith(f"sage: {job}: ")
        assert errors.endswith("trying again\n")
    finally:
        proxy.close()


def test_several_jobs_are_watched_at_once_on_a_terminal(
    worker: HandWorker, running: Running, env: dict[str, str], tmp_path: Path
) -> None:
    jobs = submitted(running, 2)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe(SAGE[0], [*SAGE, "tasks", "watch", *jobs], {**env, "TERM": "xterm", "COLUMNS": "140"})
    shown = _read_until(terminal, "0/3  queued")
    for _ in jobs:
        claim = claimed(worker)
        worker.record(claim, *answered(0, 1), failed_line(2))
        worker.finish(claim)
    shown += _read_until(terminal, None)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")
    for job in jobs:
        assert re.search(rf"generate {job} ━+ 3/3  failed: 1  succeeded", last), last


def _read_until(terminal: int, text: str | None) -> str:
    """What the terminal shows until ``text`` comes; ``None`` means until the end."""
    shown = ""
    with suppress(OSError):  # the command has ended
        while (text is None or text not in shown) and select.select([terminal], [], [], 30)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


def test_ctrl_c_ends_the_display_and_not_the_job(
    run: Sage, worker: HandWorker, running: Running, env: dict[str, str], tmp_path: Path
) -> None:
    (job,) = submitted(running)
    with watching(env, tmp_path) as process:  # without ids: what has not ended
        assert process.stdout is not None
        assert process.stdout.readline() == f"{job}: queued, 0/3\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode not in (0, 1)
    assert f"sage: interrupted; the job goes on; to see it again: sage tasks watch {job}\n" in errors
    assert "Traceback" not in errors
    assert running.get(f"/tasks/{job}").json()["state"] == "queued"
    running.post(f"/tasks/{job}/cancel")
    assert run("watch").stderr == "no job is queued or running\n"


def test_wait_shows_the_job_to_its_end_and_json_is_a_view_a_line(run: Sage, worker: HandWorker) -> None:
    def work() -> None:
        claim = claimed(worker)
        worker.record(claim, *answered(0, 1, 2))
        worker.finish(claim, result={"lines": 3})

    thread = threading.Thread(target=work)
    thread.start()
    done = run("generate", "-", "-m", "bench", "--wait", "--json", stdin='"a"\n"b"\n"c"\n')
    thread.join()
    views = [json.loads(line) for line in done.stdout.splitlines()]
    assert views[-1]["state"] == "succeeded"
    assert views[-1]["progress"]["done"] == 3
    assert views[-1]["result"] == {"lines": 3}
    assert len({view["id"] for view in views}) == 1


def test_the_report_of_an_evaluation_is_shown_as_tables(run: Sage, worker: HandWorker, running: Running) -> None:
    def system(mean: float, **names: str | None) -> dict[str, object]:
        scores = {"f1": {"mean": mean, "count": 2, "missing": 0}}
        return {
            **names,
            "scores": scores,
            "failed": 1,
            "latency_ms": {"p50": 12.4, "p95": None},
            "usage": {"total_tokens": 9},
        }

    names = {"model": "bench", "collection": None}, {"model": "bench", "collection": "docs"}
    difference = {"metric": "f1", "difference": 0.25, "low": -0.1, "high": 0.5, "count": 2}
    report = {
        "lines": 4,
        "answers": [system(0.5, **names[0]), system(0.75, **names[1])],
        "searches": [],
        "comparisons": [{**difference, "baseline": names[0], "system": names[1]}],
    }
    (job,) = submitted(running)
    claim = claimed(worker)
    worker.record(claim, *answered(0, 1, 2))
    worker.finish(claim, result=report)
    lines = run("show", job).stdout.splitlines()
    assert '  result: {"lines": 4}' in lines
    cells = [line.split() for line in lines[lines.index("") :]]
    assert cells[1:4] == [
        ["SYSTEM", "f1", "FAILED", "P50", "P95", "TOKENS"],
        ["bench", "0.500", "1", "12", "ms", "-", "9"],
        ["bench", "+", "docs", "0.750", "1", "12", "ms", "-", "9"],
    ]
    assert cells[6] == ["bench", "+", "docs", "bench", "f1", "+0.250", "-0.100", "+0.500", "2"]


def test_in_chinese(run: Sage, worker: HandWorker, running: Running) -> None:
    (job,) = submitted(running)
    assert run("cancel", job, SAGE_LANG="zh").stdout == f"{job}: 已取消\n"
    assert "作业" in run("list", "--limit", "1", SAGE_LANG="zh").stdout.splitlines()[0]
