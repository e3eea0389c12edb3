"""How programs end that use an `LLMService`: real scripts in processes of their own, before a scripted upstream."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from loaded_process import LoadedProcess, Process, loaded
from sage_process import environment
from upstream import Upstream, chat_chunk

pytestmark = pytest.mark.slow

PREAMBLE = """
import asyncio, os, socket, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from sage.middleware.llm import LLMService

service = LLMService()
service.register_model("mine", provider="openai")

def ask(text, model="mine"):
    print(service.generate(model, text).text + os.linesep, end="", flush=True)

def serve(**options):
    service.start(port=0, **options)
    print(service.url, flush=True)
"""

Start = Callable[..., Process]


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def start(up: Upstream, tmp_path: Path) -> Iterator[Start]:
    """``start(script)`` runs it as a file (by a Python that has loaded ours already, without full counts), with
    ``"-c"`` after ``python -c``, with other arguments on stdin."""
    up.reset()
    env = environment(
        tmp_path, OPENAI_BASE_URL=up.url, OPENAI_API_KEY="sk-test", SAGE_API__ACCESS_LOG="false",
        SAGE_RETRIEVAL__DEFAULTS__EMBEDDER="none",
    )  # fmt: skip
    processes: list[Process] = []

    def start(script: str, *arguments: str) -> Process:
        text = PREAMBLE + textwrap.dedent(script)
        (tmp_path / "script.py").write_text(text, encoding="utf-8")
        address = loaded(env)
        if not arguments and address is not None:
            processes.append(LoadedProcess(address, [], env, tmp_path, script="script.py"))
            return processes[-1]
        command = ["script.py"] if not arguments else ["-c", text] if arguments == ("-c",) else list(arguments)
        process = subprocess.Popen(
            [sys.executable, *command], env=env, cwd=tmp_path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        if arguments and arguments != ("-c",):
            assert process.stdin is not None
            process.stdin.write(text)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finished(process: Process) -> tuple[int, str, str]:
    """Status, output and errors of a program that ends by itself."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def line_of(process: Process) -> str:
    """The next line of output, which must come."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "it says nothing"
    line = process.stdout.readline().strip()
    assert line, process.communicate()[1]
    return line


def wait_main_ended(url: str) -> None:
    """Waits until a script that prints nothing more has come to its end; its server goes on."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert requests.get(f"{url}/health", timeout=10).status_code == 200
        time.sleep(0.1)


@pytest.mark.parametrize("way", [("-c",), ("-",)])
def test_a_script_that_asks_a_model_ends(start: Start, way: tuple[str, ...]) -> None:
    assert finished(start("ask('hello there')", *way)) == (0, "hello there\n", "")


@pytest.mark.parametrize(
    ("script", "status", "out", "err"),
    [
        pytest.param("ask('hi'); raise ValueError('of mine')", 1, "hi\n", "ValueError: of mine\n", id="exception"),
        pytest.param("serve(); raise ValueError('of mine')", 1, None, "ValueError: of mine\n", id="serving-exception"),
        pytest.param("serve(); sys.exit(3)", 3, None, "", id="serving-exit"),
        pytest.param("(lambda s: print(s.generate('openai/x', 'hi')))(LLMService())", 0, "hi\n", "", id="left"),
        pytest.param("serve(); service.stop(); ask('again')", 0, None, "", id="serving-stopped"),
        pytest.param("s = service.stream('mine', 'a b c'); print(next(s))", 0, "a \n", "", id="stream-half-read"),
    ],
)
def test_the_end_of_the_main_thread_ends_the_program(
    start: Start, script: str, status: int, out: str | None, err: str
) -> None:
    result = finished(start(script))
    assert result[0] == status
    assert out is None or result[1] == out
    assert result[2].endswith(err)
    assert bool(result[2]) == bool(err)


def test_a_taken_port_ends_the_program_and_nothing_was_begun(start: Start) -> None:
    status, out, err = finished(
        start("""
        taken = socket.create_server(("127.0.0.1", 0))
        service = LLMService()
        try:
            service.start(port=taken.getsockname()[1])
        finally:
            print([thread.name for thread in threading.enumerate() if thread.name == "sage-gateway-work_0"], service)
        """)
    )
    assert (status, out) == (1, "[] <LLMService: not running>\n")
    assert err.strip().endswith("is taken; end its program or choose another port")


def test_other_threads_of_the_program_finish_their_work_first(start: Start) -> None:
    status, out, err = finished(
        start("""
        def later():
            threading.main_thread().join()
            ask("last")

        pool = ThreadPoolExecutor(1)
        pool.submit(ask, "first")
        threading.Thread(target=later).start()
        threading.Thread(target=later).start()
        """)
    )
    assert (status, out, err) == (0, "first\nlast\nlast\n", "")


def test_a_store_with_a_model_of_the_configuration_ends_with_the_program(start: Start) -> None:
    script = """
    from sage.middleware.retrieval import VectorStore
    store = VectorStore(embedder="openai/text-embedding-3-small")
    store.add_documents(["a", "b"])
    print(len(store.search("a")))
    """
    assert finished(start(script)) == (0, "2\n", "")


def test_a_forked_process_has_a_gateway_of_its_own(start: Start) -> None:
    script = """
    import multiprocessing

    def in_child(text):
        ask(text)
        service.stop()
        ask("again")

    ask("parent")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map(in_child, ["child"])
    ask("parent")
    """
    status, out, err = finished(start(script))
    assert (status, out, err) == (0, "parent\nchild\nagain\nparent\n", "")


def test_ctrl_c_ends_a_call_and_the_program(start: Start, up: Upstream) -> None:
    up.hang()
    process = start("ask('hi')")
    request = up.wait_requests(1, 60)[0]
    process.send_signal(signal.SIGINT)
    status, out, err = finished(process)
    assert (status, out) == (-signal.SIGINT, "")
    assert err.strip().endswith("KeyboardInterrupt")
    assert request.closed.wait(10)


def test_ctrl_c_ends_a_stream_and_the_program(start: Start, up: Upstream) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    process = start("for text in service.stream('mine', 'hi'): print(text, flush=True)")
    assert line_of(process) == "one"
    process.send_signal(signal.SIGINT)
    assert finished(process)[0] == -signal.SIGINT


@pytest.mark.parametrize(
    ("number", "rest", "status"),
    [
        (signal.SIGINT, "asyncio.run(asyncio.sleep(60))", -signal.SIGINT),
        (signal.SIGTERM, "time.sleep(60)", 128 + signal.SIGTERM),
        (signal.SIGINT, "", 0),
        (signal.SIGTERM, "sys.exit(0)", 0),
    ],
)
def test_a_signal_ends_a_program_that_serves(start: Start, number: signal.Signals, rest: str, status: int) -> None:
    process = start(f"serve(); {rest}")
    url = line_of(process)
    wait_main_ended(url)
    body = {"model": "mine", "prompt": "over HTTP"}
    assert requests.post(f"{url}/generate", json=body, timeout=10).json()["text"] == "over HTTP"
    process.send_signal(number)
    assert finished(process)[0] == status
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/health", timeout=5)


def test_a_second_ctrl_c_does_not_wait_for_running_requests(start: Start, up: Upstream) -> None:
    up.hang()
    process = start("serve(); time.sleep(60)")
    url = line_of(process)
    body = {"model": "mine", "prompt": "x"}
    with ThreadPoolExecutor(1) as clients:
        answer = clients.submit(requests.post, f"{url}/generate", json=body, timeout=60)
        up.wait_requests(1, 60)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().endswith("for 1 running request(s); Ctrl-C again ends them\n")
        process.send_signal(signal.SIGINT)
        assert finished(process)[0] == -signal.SIGINT
        with suppress(requests.ConnectionError):
            assert answer.result(10).status_code == 503


def test_everything_works_after_the_main_thread_has_ended(start: Start, tmp_path: Path) -> None:
    """The standard library's thread pools refuse work then."""
    process = start("serve(auth=True)")
    url = line_of(process)
    wait_main_ended(url)
    token = (tmp_path / "setup-token").read_text().strip()
    account = {"username": "me", "password": "correct horse battery"}
    assert requests.post(f"{url}/auth/setup", json={"token": token, **account}, timeout=30).status_code == 201
    login = requests.post(f"{url}/auth/token", data=account, timeout=30).json()
    headers = {"authorization": f"Bearer {login['access_token']}"}
    large = {"model": "mine", "prompt": "word" * 500_000}
    assert len(requests.post(f"{url}/generate", json=large, headers=headers, timeout=30).json()["text"]) == 2_000_000
    documents = {"documents": [{"id": str(number), "text": "hello"} for number in range(4)]}
    assert requests.post(f"{url}/collections", json={"name": "c", "shards": 2}, headers=headers, timeout=30).ok
    assert requests.post(f"{url}/collections/c/documents", json=documents, headers=headers, timeout=30).ok
    query = {"collection": "c", "query": "hello"}
    assert requests.post(f"{url}/search", json=query, headers=headers, timeout=30).json()["total"] == 4
    process.send_signal(signal.SIGINT)
    assert finished(process)[::2] == (0, "")


def test_at_a_prompt_a_service_ends_with_the_session(start: Start) -> None:
    process = start("serve()", "-i", "-q")
    assert finished(process)[0] == 0
