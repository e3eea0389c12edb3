"""``sage ingest`` as it is typed, against a running gateway: real files, what is stored and found, kill -9 between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ingest_files import write_bomb, write_pdf
from running_gateway import Running
from sage_process import SAGE, Sage, environment, sage, without

pytestmark = pytest.mark.slow


def stored(running: Running, collection: str = "kb", **condition: Any) -> dict[str, dict[str, Any]]:
    """Documents by id, read page by page."""
    stored: dict[str, dict[str, Any]] = {}
    query: dict[str, Any] = {"limit": 1000}
    if condition:
        query["filter"] = json.dumps(condition)
    while True:
        page = running.get(f"/collections/{collection}/documents", params=query).json()
        assert not stored.keys() & {document["id"] for document in page["documents"]}
        stored |= {document["id"]: document for document in page["documents"]}
        if page["cursor"] is None:
            return stored
        query["cursor"] = page["cursor"]


def files_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {key: value for key, value in json.loads(done.stdout)["files"].items() if value}


def write_tree(root: Path) -> None:
    root.mkdir()
    (root / "guide.md").write_text("# Guide\n\n## Install\n\nRun pip to install it.\n\n## Use\n\nStart the server.\n")
    (root / "page.html").write_text("<title>Page</title><nav>menu</nav><main><h1>Search</h1><p>Hybrid ranking.</p>")
    (root / "old.txt").write_bytes("国标编码的中文文本。".encode("gb18030"))
    write_pdf(root / "paper.pdf", ["Cover", "Results are good"], title="Paper")
    (root / "rows.jsonl").write_text('{"id": "r1", "text": "row one", "metadata": {"n": 1}}\n{"text": "row two"}\n')
    (root / ".hidden.txt").write_text("hidden")
    (root / "image.png").write_bytes(bytes(range(256)))


def test_every_kind_goes_in_and_is_found(running: Running, run: Sage, tmp_path: Path) -> None:
    write_tree(tmp_path / "docs")
    done = run("ingest", "kb", "docs", "--as", "d", "--metadata", "team=search", "--json")
    assert done.returncode == 0, done.stderr
    assert "collection 'kb' is new (embedder: none" in done.stderr
    assert files_of(done) == {"added": 5, "skipped": {"binary": 1, "hidden": 1}}
    documents = stored(running)
    assert documents.keys() == {
        "d/guide.md#0",
        "d/guide.md#1",
        "d/page.html#0",
        "d/old.txt#0",
        "d/paper.pdf#0",
        "r1",
        "d/rows.jsonl#2",
    }
    use = documents["d/guide.md#1"]
    assert use["text"] == "Guide > Use\n\nStart the server."
    assert use["metadata"] == {
        "source": "d/guide.md",
        "path": "guide.md",
        "title": "Guide",
        "heading": ["Guide", "Use"],
        "chunk": 1,
        "team": "search",
    }
    assert documents["d/old.txt#0"]["text"] == "国标编码的中文文本。"
    assert documents["d/paper.pdf#0"]["metadata"]["title"] == "Paper"
    assert documents["d/paper.pdf#0"]["metadata"]["page"] == 1
    assert documents["r1"]["metadata"] == {"n": 1, "team": "search"}
    answer = run("search", "kb", "install")
    assert answer.stdout.startswith("1. Guide > Install  ")
    assert "    guide.md\n" in answer.stdout
    assert "Run pip to install it." in answer.stdout
    answer = run("search", "kb", "国标", "--filter", '{"path": "old.txt"}', "--json")
    assert [result["id"] for result in json.loads(answer.stdout)["results"]] == ["d/old.txt#0"]
    assert files_of(run("ingest", "kb", "docs", "--as", "d", "--metadata", "team=search", "--json")) == {
        "unchanged": 5,
        "skipped": {"binary": 1, "hidden": 1},
    }


def test_changed_and_removed_content(running: Running, run: Sage, tmp_path: Path) -> None:
    root = tmp_path / "docs"
    write_tree(root)
    assert run("ingest", "kb", "docs", "--as", "d").returncode == 0
    (root / "guide.md").write_text("# Guide\n\nAll in one.\n")
    (root / "page.html").unlink()
    done = run("ingest", "kb", "docs", "--as", "d", "--prune")
    assert done.returncode == 0, done.stderr
    assert "kb: files: 1 changed, 3 unchanged, 1 no longer there\n" in done.stdout
    assert stored(running).keys() == {"d/guide.md#0", "d/old.txt#0", "d/paper.pdf#0", "r1", "d/rows.jsonl#2"}
    assert stored(running)["d/guide.md#0"]["text"] == "Guide\n\nAll in one."
    assert json.loads(run("search", "kb", "install", "--json").stdout)["results"] == []


def test_failures_are_told_and_cost_only_their_files(running: Running, run: Sage, tmp_path: Path) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    (root / "good.txt").write_text("good words")
    (root / "bad.pdf").write_bytes(b"%PDF-1.4 broken")
    write_pdf(root / "locked.pdf", ["secret"], password="a password")
    write_bomb(root / "bomb.pdf", 40 * 2**20)
    (root / "rows.jsonl").write_text('{"text": "row"}\nnot json\n')
    done = run("ingest", "kb", "docs", "--as", "d", "--timeout", "1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "sage: 4 of the files failed"
    failures = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in failures] == [
        "docs/bad.pdf",
        "docs/bomb.pdf",
        "docs/locked.pdf",
        "docs/rows.jsonl:2",
    ]
    assert "takes more than 1 s to be parsed" in failures[1]
    assert stored(running).keys() == {"d/good.txt#0", "d/rows.jsonl#1"}


def test_a_name_that_is_not_utf8_and_files_without_text_are_named(running: Running, run: Sage, tmp_path: Path) -> None:
    root = tmp_path / "docs"
    (root / "sub").mkdir(parents=True)
    (root / "good.txt").write_text("good words")
    (root / "app.html").write_text("<body><script>draw()</script></body>")
    (root / "form.html").write_text("<body><form><p>words in a form</p></form></body>")
    (root / "sub/none.txt").write_text(" \n")
    bad = os.fsencode(root) + b"/caf\xe9.txt"
    Path(os.fsdecode(bad)).write_text("lost words")
    for _ in range(2):
        done = run("ingest", "kb", "docs", "--as", "d")
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert "failed: docs/caf\\xe9.txt: its name, or that of a directory above it, is not UTF-8; rename it, or " in (
            "\n".join(lines)
        )
        assert [line for line in lines if line.startswith("empty: ")] == [
            "empty: docs/app.html: has no text",
            "empty: docs/sub/none.txt: has no text",
        ]
        assert stored(running).keys() == {"d/good.txt#0", "d/form.html#0"}
    report = json.loads(run("ingest", "kb", "docs", "--as", "d", "--json").stdout)
    assert (report["empty"], report["files"]["failed"]) == (["docs/app.html", "docs/sub/none.txt"], 1)
    assert run("ingest", "kb", os.fsdecode(bad), "--as", "cafe.txt").returncode == 0
    assert stored(running)["cafe.txt#0"]["text"] == "lost words"
    done = run("ingest", "kb", "docs", "--as", "d", "--dry-run", "--json")
    assert (done.returncode, json.loads(done.stdout)["files"]["added"]) == (1, 2)


def test_a_first_ingest_that_stores_nothing_leaves_no_collection(running: Running, run: Sage, tmp_path: Path) -> None:
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7 broken")
    done = run("ingest", "kb", "scan.pdf")
    assert done.returncode == 1
    assert "is new" not in done.stderr
    assert running.get("/collections").json()["collections"] == []
    (tmp_path / "bad.jsonl").write_text('{"text": 5}\n{"no": "text"}\n')
    assert run("ingest", "kb", "bad.jsonl").returncode == 1
    assert run("ingest", "kb", "scan.pdf", "--prune", "--again").returncode == 1
    assert running.get("/collections/kb").status_code == 404


def test_lines_of_a_collection_that_was_deleted_are_sent_again(running: Running, run: Sage, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "text": "row one"}\n{"id": "b", "text": "row two"}\n')
    assert files_of(run("ingest", "kb", "rows.jsonl", "--json")) == {"added": 1}
    assert files_of(run("ingest", "kb", "rows.jsonl", "--json")) == {"unchanged": 1}
    assert run("collections", "delete", "kb", "--yes").returncode == 0
    assert files_of(run("ingest", "kb", "rows.jsonl", "--json")) == {"added": 1}
    assert stored(running).keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    [
        ("a.txt", b"some text", "semantic_text_splitter"),
        ("a.md", b"# A", "markdown_it"),
        ("a.html", b"<p>A</p>", "selectolax"),
        ("a.pdf", b"%PDF-1.7", "pypdf"),
    ],
)
def test_without_its_extra_nothing_is_made_or_sent(
    running: Running, env: dict[str, str], tmp_path: Path, name: str, content: bytes, missing: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.jsonl").write_text('{"text": "row"}\n')
    command = [*without([missing]), "ingest", "kb"]
    done = subprocess.run([*command, "good.jsonl", name], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "sage: sage ingest needs the extra 'ingest': pip install 'intellistream-sage-middleware[ingest]'\n"
    )
    assert running.get("/collections").json()["collections"] == []
    done = subprocess.run([*command, "good.jsonl"], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # JSON lines need none of it


def test_a_collection_without_an_embedder_says_when_there_is_one_now(
    gateway: Callable[..., Running], tmp_path: Path
) -> None:
    running = gateway()
    env = environment(tmp_path, SAGE_URL=running.url, SAGE_API_KEY=running.key, COLUMNS="200")
    assert running.post("/collections", {"name": "kb", "embedder": "none"}).status_code == 201
    said = "has no embedder, so searches find words only; 'local' is installed now: sage collections reembed kb auto"
    assert running.get("/collections/kb").json()["warnings"] == [said]
    done = sage(["ingest", "kb", "-"], env, cwd=tmp_path, stdin="The cat sleeps.")
    assert done.returncode == 0, done.stderr
    assert f"sage: collection 'kb' {said}\n" in done.stderr
    assert f"  warning: {said}\n" in sage(["collections", "show", "kb"], env, cwd=tmp_path).stdout
    assert sage(["collections", "reembed", "kb", "local"], env, cwd=tmp_path).returncode == 0
    assert "warnings" not in running.get("/collections/kb").json()
    assert "embedder" not in sage(["ingest", "kb", "-"], env, cwd=tmp_path, stdin="The dog barks.").stderr


def test_vectors_that_come_with_the_documents_are_no_cause_for_a_warning(
    gateway: Callable[..., Running], running: Running
) -> None:
    assert gateway().post("/collections", {"name": "own", "embedder": "none", "dimension": 3}).status_code == 201
    assert "warnings" not in gateway().get("/collections/own").json()
    running.post("/collections", {"name": "kb"})  # the configuration says that there is to be no embedder
    assert "warnings" not in running.get("/collections/kb").json()


def test_stdin(running: Running, run: Sage) -> None:
    assert run("ingest", "kb", "-", stdin="Words from a pipe.").returncode == 0
    assert run("ingest", "kb", "-", stdin='{"id": "a", "text": "a row"}\n').returncode == 0
    assert run("ingest", "kb", "-", "--as", "note", "--format", "markdown", stdin="# T\n\nbody").returncode == 0
    documents = stored(running)
    assert sorted(document["text"] for document in documents.values()) == ["T\n\nbody", "Words from a pipe.", "a row"]
    assert {"a", "note#0"} < documents.keys()


def test_a_dry_run_sends_nothing_and_needs_no_gateway(run: Sage, tmp_path: Path) -> None:
    write_tree(tmp_path / "docs")
    done = sage(["ingest", "kb", "docs", "--dry-run", "--json"], environment(tmp_path / "mine"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["dry_run"], report["chunks"], report["sent"], report["files"]["added"]) == (True, 7, 0, 5)
    assert json.loads(run("collections", "list", "--json").stdout) == {"collections": []}


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["ingest", "kb", "nowhere"], 1, "nowhere: there is no such file"),
        (["ingest", "kb"], 2, "Missing argument"),
        (["ingest", "a/b", "."], 2, "is not a name of a collection"),
        (["ingest", "kb", ".", "--overlap", "900"], 2, "--chunk-size 900"),
        (["ingest", "kb", ".", "--metadata", "plain"], 2, "KEY=VALUE"),
        (["ingest", "kb", ".", "--metadata", "chunk=1"], 2, "written by sage ingest"),
        (["ingest", "kb", ".", "--max-memory", "1KiB"], 2, "64MiB"),
        (["ingest", "kb", "a", "b", "--as", "x"], 2, "one FILE"),
    ],
)
def test_slips(tmp_path: Path, words: Sequence[str], status: int, text: str) -> None:
    done = sage(words, environment(tmp_path, SAGE_URL="http://127.0.0.1:9", COLUMNS="200"), cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert text in " ".join(done.stderr.split())


def test_no_gateway_and_no_scope_are_one_line(running: Running, run: Sage, tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "a.txt").write_text("a")
    done = sage(["ingest", "kb", "a.txt"], {**env, "SAGE_URL": "http://127.0.0.1:9"}, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no gateway answers" in done.stderr
    key = running.new_key(scopes=["search"])
    done = sage(["ingest", "kb", "a.txt"], {**env, "SAGE_API_KEY": key}, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "collections:write" in done.stderr


def started(env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SAGE, "ingest", "kb", "docs", "--as", "d", "--json"],
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_some_are_in(running: Running, process: subprocess.Popen[str], some: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        answer = running.get("/collections/kb")
        if answer.status_code == 200 and answer.json()["documents"] >= some:
            return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_client_that_is_killed_goes_on_without_doubles(
    running: Running, run: Sage, env: dict[str, str], tmp_path: Path, signum: int
) -> None:
    root = tmp_path / "docs"
    root.mkdir()
    rows = [{"text": f"row {number} has words", "metadata": {"n": number}} for number in range(4000)]
    (root / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (root / "large.txt").write_text(" ".join(f"This is sentence {number} of a long text." for number in range(30_000)))
    for number in range(30):
        (root / f"small{number}.txt").write_text(f"Small file {number}.")
    process = started(env, tmp_path)
    until_some_are_in(running, process, 4500)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    if signum == signal.SIGINT:
        assert process.returncode == 130
        assert errors.splitlines()[-1].startswith("sage: interrupted; ")
    before = stored(running)
    done = run("ingest", "kb", "docs", "--as", "d", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    documents = stored(running)
    sources: dict[str, int] = {}
    for document in documents.values():
        source = document["metadata"].get("source", "rows")
        sources[source] = sources.get(source, 0) + 1
    large = documents["d/large.txt#0"]["metadata"]
    assert sources == {"rows": 4000, "d/large.txt": large["chunks"]} | {f"d/small{n}.txt": 1 for n in range(30)}
    assert documents.keys() >= before.keys()
    assert len(large["digest"]) == 32
    assert report["files"]["unchanged"] == 1, "the rows were all in"
    assert report["sent"] == len(documents) - len(before) + 1, "what was missing, and the first chunk for its digest"
    ends = [document["text"].split("sentence ")[-1] for document in stored(running, source="d/large.txt").values()]
    assert any(end.startswith("29999 ") for end in ends)
    assert run("ingest", "kb", "docs", "--as", "d", "--json").returncode == 0
    assert stored(running) == documents
