"""``sage models pull hf:…``, ``add --path`` and ``recommend``: with a gateway, without one, and from afar."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from model_hub import ModelHub
from onnx_models import put_model, tiny_embedder_files
from project import ROOT
from sage_process import SAGE, Sage, environment, sage, serving
from tiny_gguf import write_llama, write_parrot

from sage.middleware.cli.model_files import source_of
from sage.middleware.cli.recommend import SMALL_MODELS, fits
from sage.middleware.hub.sources import parse_source

REPO = "org/Tiny-GGUF"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    with ModelHub() as hub:
        content = write_parrot(tmp_path / "parrot.gguf", "Hello there, friend.").read_bytes()
        hub.put(REPO, "tiny-q4_k_m.gguf", content)
        yield hub


@pytest.fixture
def env(hub: ModelHub, tmp_path: Path) -> dict[str, str]:
    """One installation, whose gateway would listen on a port that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}
    return environment(tmp_path / "data", SAGE_API__PORT=port, SAGE_AUTH__ENABLED="false", **names)


@pytest.fixture
def run(env: dict[str, str], tmp_path: Path) -> Sage:
    return lambda *words, **extra: sage(words, {**env, **extra}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/repo:x.gguf", "hf:org/repo:x.gguf"),
        ("hf://org/repo", "hf:org/repo"),
        ("https://huggingface.co/org/repo", "hf:org/repo"),
        ("https://hf.co/org/repo/blob/main/sub/x-Q4_0.gguf", "hf:org/repo:sub/x-Q4_0.gguf"),
        ("https://huggingface.co/org/repo/resolve/main/x.gguf?download=true", "hf:org/repo:x.gguf"),
        ("https://huggingface.co/org/repo/tree/main", "hf:org/repo"),
        ("https://www.modelscope.cn/models/org/repo/files", "ms:org/repo"),
        ("https://modelscope.cn/models/org/repo/file/view/master/x.gguf", "ms:org/repo:x.gguf"),
        ("ollama/llama3.2", "ollama/llama3.2"),
        ("https://example.com/org/repo", "https://example.com/org/repo"),
    ],
)
def test_the_address_of_a_page_names_a_model_too(text: str, source: str) -> None:
    assert source_of(text) == source


def test_what_is_recommended_fits_with_room_to_spare() -> None:
    assert [parse_source(model.source).hub for model in SMALL_MODELS] == ["hf"] * len(SMALL_MODELS)
    sizes = [model.size for model in SMALL_MODELS]
    assert sizes == sorted(sizes)
    small = SMALL_MODELS[1]
    assert small.source == "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF"
    assert 600 * 2**20 < small.memory < 700 * 2**20
    assert [fits(small, room) for room in (8 * 2**30, small.memory + 1, small.memory - 1, None)] == [
        "yes",
        "tight",
        "no",
        "?",
    ]


@pytest.mark.slow
def test_a_gateway_pulls_for_the_command(run: Sage, env: dict[str, str], tmp_path: Path) -> None:
    with serving([], env, tmp_path) as server:
        done = run("models", "pull", f"hf:{REPO}", SAGE_URL=server.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("tiny: pulled (")
        assert done.stderr.splitlines()[:2] == ["tiny-q4_k_m.gguf", "pulling tiny-q4_k_m.gguf (106 KiB)"]
        answer = run("generate", "tiny", "hi", SAGE_URL=server.url)
        assert (answer.returncode, answer.stdout) == (0, "Hello there, friend.\n")
        chat = sage(["chat", "tiny"], {**env, "SAGE_URL": server.url}, cwd=tmp_path, stdin="hi\n")
        assert chat.stdout == "Hello there, friend.\n"
        assert "tiny" in run("models", "list", SAGE_URL=server.url).stdout
        removed = run("models", "remove", "tiny", SAGE_URL=server.url)
        assert removed.stdout == "tiny: removed\n"
        refused = run("models", "pull", "hf:org/none", SAGE_URL=server.url)
        assert refused.returncode == 1
        assert "hf:org/none does not exist" in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_without_a_gateway_the_command_pulls_by_itself(run: Sage, env: dict[str, str], tmp_path: Path) -> None:
    done = run("models", "pull", f"hf:{REPO}:Q4_K_M", "--name", "mine", "--context", "512")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine: pulled (")
    assert "'sage serve' will have it" in done.stdout
    again = run("models", "pull", f"hf:{REPO}", "--name", "gemma-3-270m")
    assert again.returncode == 1
    assert "'gemma-3-270m' is in the configuration file" in again.stderr
    far = run("models", "pull", f"hf:{REPO}", SAGE_URL="http://127.0.0.1:9")
    assert far.returncode == 1
    assert "no gateway answers at http://127.0.0.1:9" in far.stderr
    missing = run("models", "pull", f"hf:{REPO}:Q8_0")
    assert missing.returncode == 1
    assert "has no 'Q8_0'; it has: tiny-q4_k_m.gguf" in missing.stderr
    with serving([], env, tmp_path) as server:
        assert run("generate", "mine", "hi", SAGE_URL=server.url).stdout == "Hello there, friend.\n"


@pytest.mark.slow
def test_a_disk_that_becomes_full(hub: ModelHub, env: dict[str, str], tmp_path: Path) -> None:
    limited = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *SAGE, "models", "pull", f"hf:{REPO}"]
    done = subprocess.run(limited, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the disk of the gateway's models became full" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "data" / "models").rglob("*.gguf")) == []


@pytest.mark.slow
def test_ctrl_c_and_a_killed_gateway_end_the_download(
    run: Sage, hub: ModelHub, env: dict[str, str], tmp_path: Path
) -> None:
    hub.hangs_after = 60_000
    process = subprocess.Popen(
        [*SAGE, "models", "pull", f"hf:{REPO}"], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    _wait_for_part(tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Traceback" not in errors
    with serving([], env, tmp_path) as server:
        seen = len(hub.downloads())
        with ThreadPoolExecutor(1) as pool:
            pulling = pool.submit(run, "models", "pull", f"hf:{REPO}", SAGE_URL=server.url)
            while len(hub.downloads()) == seen:
                pass
            server.process.kill()
            assert pulling.result(30).returncode == 1
    hub.hangs_after = None
    done = run("models", "pull", f"hf:{REPO}")
    while "another model is being pulled" in done.stderr:  # the child of the gateway ends in a moment
        done = run("models", "pull", f"hf:{REPO}")
    assert done.returncode == 0, done.stderr
    assert hub.downloads()[-1].headers["range"] in ("bytes=32768-", "bytes=65536-")  # what the gateway had of it


def _wait_for_part(tmp_path: Path) -> None:
    """Returns once a download has begun to write."""
    while not any(part.stat().st_size for part in (tmp_path / "data").rglob("*.part")):
        pass


@pytest.mark.slow
def test_without_the_extra(run: Sage, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "huggingface_hub.py").write_text("raise ImportError")
    done = run("models", "pull", f"hf:{REPO}", PYTHONPATH=f"{tmp_path / 'without'}:{ROOT}")
    assert done.returncode == 1
    assert "pulling models from a hub needs the extra 'local': pip install" in done.stderr


@pytest.mark.slow
def test_a_repository_without_its_hub_is_told(run: Sage, env: dict[str, str], tmp_path: Path) -> None:
    with serving([], env, tmp_path) as server:
        done = run("models", "pull", REPO, SAGE_URL=server.url)
    assert done.returncode == 1
    assert f"to pull it from Hugging Face: sage models pull hf:{REPO}" in done.stderr
    wrong = run("models", "pull", "llama3", "--context", "512")
    assert wrong.returncode == 2


@pytest.mark.slow
def test_a_file_is_added_where_it_lies(run: Sage, env: dict[str, str], tmp_path: Path) -> None:
    file = write_parrot(tmp_path / "own.gguf", "From my own file.")
    added = run("models", "add", "own", "--path", str(file))
    assert (added.returncode, added.stdout) == (0, f"own: added ({file}); 'sage serve' will have it\n"), added.stderr
    with serving([], env, tmp_path) as server:
        own = {"SAGE_URL": server.url}
        assert run("generate", "own", "hi", **own).stdout == "From my own file.\n"
        other = write_llama(tmp_path / "other.gguf")
        added = run("models", "add", "other", "--path", "other.gguf", "--task", "embed", **own)
        assert (added.returncode, added.stdout) == (0, f"other: added ({other})\n"), added.stderr
        assert json.loads(run("models", "show", "other", "--json", **own).stdout)["source"] == "file"
        elsewhere = run("models", "add", "x", "--path", str(file), **own, SAGE_DATA_DIR=str(tmp_path / "second"))
        assert "another data directory" in elsewhere.stdout
        assert run("models", "remove", "own", **own).returncode == 0
        assert file.is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["x", "--path", "missing.gguf"], 1, "there is no file"),
        (["x", "--path", "text.gguf"], 1, "is not a GGUF file"),
        (["a/b", "--path", "text.gguf"], 1, "is not made of letters"),
        (["gemma-3-270m", "--path", "text.gguf"], 1, "is in the configuration file"),
        (["x"], 2, "give either --path or --deployment"),
        (["x", "--path", "t.gguf", "--pin"], 2, "go with --deployment"),
    ],
)
def test_files_that_are_not_added(run: Sage, tmp_path: Path, words: list[str], status: int, says: str) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    done = run("models", "add", *words)
    assert done.returncode == status
    assert says in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_path_is_of_this_machine(run: Sage) -> None:
    done = run("models", "add", "x", "--path", "x.gguf", SAGE_URL="http://gateway.example:8000")
    assert done.returncode == 1
    assert "may run on another one" in done.stderr


@pytest.mark.slow
def test_recommend_counts_the_memory_budget(run: Sage) -> None:
    done = run("models", "recommend", SAGE_LLM__MEMORY_BUDGET="1GiB")
    assert done.returncode == 0, done.stderr
    first, head, *rows = done.stdout.splitlines()
    assert first == "llm.memory_budget lets models take 1.0 GiB of memory."
    assert head.split() == ["MODEL", "FILE", "MEMORY", "FITS", "LANG", "LICENCE"]
    assert max(map(len, (head, *rows[:-4]))) <= 80
    table = {row.split()[0]: row for row in rows if row.startswith("hf:")}
    assert " yes " in table["hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF"]
    assert " no " in table["hf:Qwen/Qwen3-8B-GGUF"]
    assert "The largest that fits well: sage models pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF" in rows
    assert "2026-11" in rows[-2]
    told = json.loads(run("models", "recommend", "--json").stdout)
    assert told["as_of"] == "2026-11"
    assert {"source", "size", "memory", "fits"} <= set(told["models"][0])


@pytest.mark.slow
def test_a_model_in_onnxs_format_is_pulled_without_a_gateway(run: Sage, hub: ModelHub) -> None:
    put_model(hub, "org/tiny", tiny_embedder_files())
    done = run("models", "pull", "hf:org/tiny@main")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hf:org/tiny: pulled (")
    assert f"hf:org/tiny is hf:org/tiny@{hub.repos['org/tiny'].head}#sha256-" in done.stderr
    refused = run("models", "pull", "hf:org/tiny", "--context", "512")
    assert (refused.returncode, "takes no context" in refused.stderr) == (1, True)
