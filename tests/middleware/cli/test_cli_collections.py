"""``sage collections`` and ``sage search`` as they are typed, against a running gateway."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_gateway import Running
from sage_process import Sage

from sage.middleware.cli.output import emphasised, table, width, wrapped
from sage.middleware.cli.search import describe

pytestmark = pytest.mark.slow


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return {**env, "COLUMNS": "60"}


def add(running: Running, *texts: str, collection: str = "notes") -> None:
    documents = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    assert running.post(f"/collections/{collection}/documents", {"documents": documents}).status_code == 200


@pytest.mark.slow
def test_the_life_of_a_collection(running: Running, run: Sage, tmp_path: Path) -> None:
    created = run("collections", "create", "notes", "--variant", "okapi", "--k1", "1.5", "--metric", "dot", "--json")
    assert created.returncode == 0, created.stderr
    options = json.loads(created.stdout)["options"]
    assert (options["keywords"]["variant"], options["keywords"]["k1"], options["metric"]) == ("okapi", 1.5, "dot")
    add(running, "alpha beta", "gamma", "混合检索")
    listed = run("collections", "list").stdout.splitlines()
    assert listed[0].split() == ["NAME", "DOCUMENTS", "EMBEDDER", "DIMENSION", "METRIC", "SIZE"]
    assert listed[1].split()[:5] == ["notes", "3", "none", "-", "dot"]
    shown = run("collections", "show", "notes").stdout
    assert shown.startswith("notes: 3 documents, ")
    assert "keywords: variant okapi, k1 1.5" in shown
    assert run("collections", "optimize", "notes").stdout.startswith("notes: optimized")
    spread = run("collections", "create", "spread", "--shards", "2")
    assert (spread.returncode, "  shards: 2" in spread.stdout.splitlines()) == (0, True), spread.stderr
    assert run("collections", "delete", "spread", "--yes").returncode == 0
    snapshot = run("collections", "snapshot", "notes", "notes.snapshot")
    assert snapshot.returncode == 0, snapshot.stderr
    assert {path.name for path in tmp_path.glob("*snap*")} == {"notes.snapshot"}
    assert run("collections", "delete", "notes").stdout == "notes: deleted\n"
    assert run("collections", "show", "notes").returncode == 1
    restored = run("collections", "restore", "copy", "notes.snapshot")
    assert restored.stdout == "copy: 3 documents restored\n", restored.stderr
    answer = json.loads(run("search", "copy", "检索", "--json").stdout)
    assert [result["id"] for result in answer["results"]] == ["2"]
    again = run("collections", "restore", "copy", "notes.snapshot")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "exists already" in again.stderr


@pytest.mark.slow
def test_reembedding_tells_its_steps(running: Running, run: Sage) -> None:
    pytest.importorskip("onnxruntime")
    add(running, "The cat sat on the mat.", "Stocks fell sharply.")
    done = run("collections", "reembed", "notes", "local")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("notes: embedded by local (")
    assert "(2 documents)" in done.stderr
    answer = json.loads(run("search", "notes", "a kitten on a rug", "--mode", "dense", "--json").stdout)
    assert answer["results"][0]["id"] == "0"
    refused = run("collections", "reembed", "notes", "nobody/nothing")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)


@pytest.mark.slow
def test_refusals_are_one_line(run: Sage, tmp_path: Path) -> None:
    for words, text in (
        (["collections", "show", "nope"], "there is no collection 'nope'"),
        (["collections", "delete", "nope"], "nope"),
        (["collections", "snapshot", "nope", "x.snapshot"], "nope"),
        (["collections", "restore", "new", "missing.snapshot"], "missing.snapshot: No such file"),
        (["collections", "create", "../x"], "x"),
        (["search", "nope", "q"], "nope"),
    ):
        done = run(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), (words, done.stderr)
        assert text in done.stderr
    assert not list(tmp_path.glob("*snapshot*"))
    (tmp_path / "bad.snapshot").write_bytes(b"no snapshot")
    assert run("collections", "restore", "new", "bad.snapshot").returncode == 1
    assert json.loads(run("collections", "list", "--json").stdout) == {"collections": []}
    assert run("search", "nope", "q", "--filter", "{").returncode == 2
    assert run("collections", "show", "a/b").returncode == 2


@pytest.mark.slow
def test_search_takes_decomposed_words(running: Running, run: Sage) -> None:
    add(running, "한국어 수업", "서울")
    for query, found in (("+한국어", "0"), ("서울 -한국어", "1"), ('"한국어"', "0")):
        output = run("search", "notes", "--json", "--", unicodedata.normalize("NFD", query)).stdout
        assert [result["id"] for result in json.loads(output)["results"]] == [found]


def test_search_takes_a_threshold(running: Running, run: Sage) -> None:
    add(running, "red apples", "green tea")
    for query, found in (("red", ["0"]), ("red herring", [])):
        output = run("search", "notes", query, "--score-threshold", "0.9", "--json").stdout
        assert [result["id"] for result in json.loads(output)["results"]] == found


def test_search_reads_signs_as_it_is_told(running: Running, run: Sage) -> None:
    add(running, "red apples", "green tea")
    for syntax, found in (("auto", ["0"]), ("query", []), ("plain", ["0"])):
        output = run("search", "notes", '"apples red"', "--syntax", syntax, "--json").stdout
        answer = json.loads(output)
        assert [result["id"] for result in answer["results"]] == found
        assert ("warnings" in answer) == (syntax == "auto")


def test_search_shows_passages_and_explains(running: Running, run: Sage) -> None:
    add(running, "The quick brown fox jumps. " * 3, "混合检索把关键词和向量结合起来，" * 8, "nothing of it")
    output = run("search", "notes", "fox", "--explain", "--mode", "bm25").stdout
    lines = output.splitlines()
    assert lines[0].startswith("1. 0  ")
    assert "fox jumps." in output
    assert "<em>" not in output
    assert "1 to 1 of 1 (" in lines[-1]
    chinese = run("search", "notes", "关键词").stdout
    assert all(width(line) <= 60 for line in chinese.splitlines())
    assert run("search", "notes", "zebra").stdout == "nothing found\n"
    piped = run("search", "notes", "-", "--json", stdin="brown fox\n")
    assert json.loads(piped.stdout)["results"][0]["id"] == "0"


# What is printed

ANSWER = {
    "results": [
        {
            "id": "kb/a.pdf#3",
            "score": 0.91234,
            "text": "long text",
            "metadata": {"source": "kb/a.pdf", "path": "a.pdf", "page": 4, "heading": ["Guide", "Install"]},
            "highlights": ["words &lt;em&gt; with <em>one match</em> here"],
            "explanation": {"dense": {"score": 0.123456}, "terms": ["match"]},
        },
        {"id": "x", "score": 2, "text": "plain\x1b[31m text\nof two lines", "metadata": {"title": "标题"}},
    ],
    "total": 7,
    "took_ms": 1.26,
}


def test_an_answer_for_people() -> None:
    assert describe(ANSWER, columns=60) == [
        "1. Guide > Install  0.9123",
        "    a.pdf, page 4",
        "    words <em> with one match here",
        '    dense: {"score": 0.1235}',
        '    terms: ["match"]',
        "",
        "2. 标题  2",
        "    x",
        "    plain [31m text of two lines",
        "",
        "1 to 2 of 7 (1.3 ms)",
    ]


def test_matches_are_bold_on_a_terminal_line_by_line() -> None:
    lines = describe(ANSWER, columns=33, bold=True)
    assert lines[2:4] == ["    words <em> with \x1b[1mone match\x1b[22m", "    here"]
    split = {**ANSWER, "results": [{**ANSWER["results"][0], "highlights": ["a <em>" + "match " * 8 + "</em> b"]}]}
    bold = [line for line in describe(split, columns=28, bold=True) if "match" in line]
    assert len(bold) > 1
    assert all(line.count("\x1b[1m") == line.count("\x1b[22m") == 1 for line in bold if "match match" in line)


def test_nothing_found_and_pages_beyond_the_end() -> None:
    assert describe({"results": [], "total": 0, "took_ms": 1.0}) == ["nothing found"]
    assert describe({"results": [], "total": 3, "took_ms": 1.0}, first=11) == ["no more than 3 documents match"]


def test_columns_with_chinese_come_out_even() -> None:
    assert list(table([("NAME", "N"), ("中文名", "10"), ("e\u0301", "1")])) == [
        "NAME    N",
        "中文名  10",
        "e\u0301       1",
    ]


def test_lines_end_at_spaces_or_between_chinese_characters() -> None:
    assert list(wrapped("aaa bbb ccc", 7)) == ["aaa bbb", "ccc"]
    assert list(wrapped("中文很长的一行", 6)) == ["中文很", "长的一", "行"]
    assert list(wrapped("abcdefghij", 4)) == ["abcd", "efgh", "ij"]


@given(st.text(st.sampled_from("ab 中文，é\u0301 "), max_size=80), st.integers(4, 20))
def test_wrapped_lines_fit_and_keep_every_character(text: str, room: int) -> None:
    lines = list(wrapped(text, room))
    assert all(width(line) <= room for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert emphasised("\x02a\x03", bold=False) == "a"
