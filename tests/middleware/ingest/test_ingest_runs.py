"""One ingest after another into one collection: what changed is replaced, what is gone is deleted, without doubles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from stand_in_collections import StandIn, standing_in

from sage.errors import CallFailed
from sage.middleware.client.connection import Client
from sage.middleware.ingest.files import Walk
from sage.middleware.ingest.ingestion import Ingestion
from sage.middleware.ingest.journal import Journal, Position
from sage.middleware.ingest.parsing import Parser, ParsingLimits
from sage.middleware.ingest.records import Recipe, chunk_id
from sage.middleware.ingest.summary import Summary
from sage.middleware.ingest.target import IngestTarget, Refused

pytestmark = pytest.mark.slow  # many processes

Run = Callable[..., Summary]


class Stopped(Exception):
    """Stands for a client that is killed."""


class Stopping(Client):
    """A client that is killed before one of its writes."""

    def __init__(self, url: str, calls: int) -> None:
        super().__init__(url, None)
        self._calls = calls

    def post(self, path: str, body: Mapping[str, Any] | bytes | None = None) -> dict[str, Any]:
        if not self._calls:
            raise Stopped
        self._calls -= 1
        return super().post(path, body)


class Quiet:
    """A display that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def advance(self, size: int) -> None:
        self.bytes += size

    def sent(self, documents: int) -> None:
        pass


@pytest.fixture
def collection() -> Iterator[StandIn]:
    with standing_in() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(ParsingLimits()) as running:
        yield running


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    root = tmp_path / "docs"
    root.mkdir()
    return root


@pytest.fixture
def run(collection: StandIn, parser: Parser, docs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run()`` ingests the directory ``docs`` as ``kb``."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def ingest(
        *, again: bool = False, prune: bool = False, size: int = 200, calls: int = 10_000, **metadata: Any
    ) -> Summary:
        target = IngestTarget(Stopping(collection.url, calls), "docs", lambda seconds: pytest.fail("waited"))
        target.open()
        walk, summary, display = Walk(alias="kb"), Summary("docs"), Quiet()
        files = walk.find([docs])
        ingestion = Ingestion(target, parser, Recipe(size, 20, None, metadata), summary, display, again, batch=10)
        ingestion.run(files)
        if prune:
            ingestion.prune(walk.roots)
        summary.close()
        assert display.bytes == sum(file.size for file in files)
        return summary

    return ingest


@pytest.mark.parametrize("what_is_there_then", ["nothing", "another directory"])
def test_a_directory_that_goes_away_after_the_walk_keeps_its_documents(
    collection: StandIn, parser: Parser, docs: Path, what_is_there_then: str
) -> None:
    (docs / "a.txt").write_text("kept")
    (docs / "b.txt").write_text("gone soon")
    target = IngestTarget(Stopping(collection.url, 10_000), "docs", lambda seconds: pytest.fail("waited"))
    target.open()
    walk = Walk(alias="kb")
    ingestion = Ingestion(target, parser, Recipe(200, 20, None, {}), Summary("docs"), Quiet())
    ingestion.run(walk.find([docs]))
    away = docs.rename(docs.with_name("away"))
    if what_is_there_then != "nothing":
        docs.mkdir()
    ingestion.prune(walk.roots)
    assert ingestion.summary.pruned == 0
    if docs.exists():
        docs.rmdir()
    away.rename(docs)
    (docs / "b.txt").unlink()
    ingestion.prune(walk.roots)
    assert ingestion.summary.pruned == 1


def words(count: int, name: str = "w") -> str:
    return " ".join(f"Sentence {number} about {name}." for number in range(count))


def counts(summary: Summary) -> tuple[int, int, int, int, int]:
    return summary.added, summary.changed, summary.unchanged, summary.sent, summary.deleted


def test_metadata_and_ids(run: Run, collection: StandIn, docs: Path) -> None:
    (docs / "sub").mkdir()
    (docs / "sub/a.md").write_text(f"---\ntitle: T\nlang: en\nchunk: 9\n---\n# A\n\n## B\n\n{words(12)}")
    assert counts(run(year=2024, lang="de")) == (1, 0, 0, 2, 0)
    first, second = (collection.documents[f"kb/sub/a.md#{position}"] for position in (0, 1))
    common = {"source": "kb/sub/a.md", "path": "sub/a.md", "title": "T", "lang": "de", "year": 2024}
    assert second["metadata"] == {**common, "heading": ["A", "B"], "chunk": 1}
    digest = first["metadata"].pop("digest")
    assert len(digest) == 32
    assert first["metadata"] == {**common, "heading": ["A", "B"], "chunk": 0, "chunks": 2}
    assert first["text"].startswith("A > B\n\nSentence 0 about w.")


def test_a_second_run_sends_nothing_and_a_change_sends_what_changed(run: Run, collection: StandIn, docs: Path) -> None:
    (docs / "a.txt").write_text(words(40))
    (docs / "b.txt").write_text("small")
    assert run().added == 2
    before = dict(collection.documents)
    assert counts(run()) == (0, 0, 2, 0, 0)
    (docs / "a.txt").write_text(f"{words(40)} The end.")
    changed = run()
    assert (changed.changed, changed.unchanged, changed.deleted) == (1, 1, 0)
    assert changed.sent == 2, "the last chunk, and the first for its digest"
    assert len(collection.documents) == len(before)


def test_chunks_that_vanished_are_deleted(run: Run, collection: StandIn, docs: Path) -> None:
    (docs / "a.txt").write_text(words(40))
    many = run().chunks
    (docs / "a.txt").write_text(words(3))
    assert counts(run()) == (0, 1, 0, 1, many - 1)
    assert list(collection.documents) == ["kb/a.txt#0"]
    (docs / "a.txt").write_text("  \n")
    emptied = run()
    assert (emptied.empty, emptied.deleted) == (1, 1)
    assert collection.documents == {}


def test_files_that_are_gone_are_deleted_when_asked(run: Run, collection: StandIn, docs: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (docs / name).write_text(words(20, name))
    collection.documents["other#0"] = {"id": "other#0", "text": "", "metadata": {"source": "other", "chunk": 0}}
    run()
    stored = sum(key.startswith("kb/b") for key in collection.documents)
    (docs / "b.txt").unlink()
    assert run().pruned == 0
    pruned = run(prune=True)
    assert (pruned.pruned, pruned.deleted) == (1, stored)
    assert {key.partition("#")[0] for key in collection.documents} == {"kb/a.txt", "other"}


def test_another_recipe_makes_other_chunks(run: Run, collection: StandIn, docs: Path) -> None:
    (docs / "a.txt").write_text(words(40))
    small = run().chunks
    again = run(size=400)
    assert again.changed == 1
    assert again.chunks < small
    assert len(collection.documents) == again.chunks
    assert counts(run(size=400, again=True))[3] == again.chunks
    assert run(size=400, lang="en").changed == 1
    assert all(document["metadata"]["lang"] == "en" for document in collection.documents.values())


def test_a_file_that_fails_leaves_what_it_was(run: Run, collection: StandIn, docs: Path) -> None:
    (docs / "a.md").write_text(words(5))
    run()
    before = dict(collection.documents)
    (docs / "a.md").write_bytes(b"%PDF-1.7\nno more")
    (docs / "b.txt").write_text("good")
    summary = run()
    assert [file for file, _ in summary.failures] == [str(docs / "a.md")]
    assert collection.documents == {**before, "kb/b.txt#0": collection.documents["kb/b.txt#0"]}


def test_a_chunk_that_is_refused_costs_its_file_only(run: Run, collection: StandIn, docs: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (docs / name).write_text(words(20, name))
    collection.refused = {"kb/b.txt#1"}
    summary = run()
    assert summary.failures == [(str(docs / "b.txt"), "'text' is refused")]
    assert {key.partition("#")[0] for key in collection.documents} == {"kb/a.txt", "kb/c.txt"}


@pytest.mark.parametrize("stop", range(6))
def test_stopped_at_any_request_the_next_run_completes_it(run: Run, collection: StandIn, docs: Path, stop: int) -> None:
    (docs / "a.txt").write_text(words(120, "old and long"))
    (docs / "b.txt").write_text(words(4))
    run()
    (docs / "a.txt").write_text(words(80, "new"))
    (docs / "c.txt").write_text(words(90, "third"))
    with pytest.raises(Stopped):
        run(calls=stop)
    summary = run()
    assert summary.failures == []
    assert run().unchanged == 3
    resumed = dict(collection.documents)
    collection.documents.clear()
    assert run().added == 3
    assert {key: one for key, one in resumed.items() if one != collection.documents[key]} == {}
    assert resumed.keys() == collection.documents.keys()


def test_a_large_file_goes_on_where_it_stopped(run: Run, collection: StandIn, docs: Path) -> None:
    (docs / "a.txt").write_text(words(400))
    collection.faults = [None] * 5 + [401]
    with pytest.raises(CallFailed, match="not now"):
        run()
    stored = len(collection.documents)
    assert stored == 41
    assert collection.documents["kb/a.txt#0"]["metadata"]["digest"] == ""
    summary = run()
    assert summary.sent == summary.chunks - stored + 1


# A gateway that is busy, away or strict


def test_busy_and_broken_answers_are_tried_again(collection: StandIn) -> None:
    slept: list[float] = []
    target = IngestTarget(Client(collection.url, None), "docs", slept.append)
    collection.faults = [503, 429, "drop", 502]
    target.put([{"id": "a", "text": "x"}])
    assert collection.writes == [["a"], ["a"]], "the second answer got lost, so it was written twice under one id"
    assert slept[:2] == [7, 7]
    assert len(slept) == 4


def test_what_is_wrong_for_good_is_not_tried_again(collection: StandIn) -> None:
    target = IngestTarget(Client(collection.url, None), "docs", lambda seconds: pytest.fail("waited"))
    collection.faults = [403]
    with pytest.raises(CallFailed, match="not now") as caught:
        target.put([{"id": "a", "text": "x"}])
    assert caught.value.answer_status == 403


def test_batches_that_are_too_large_are_halved(collection: StandIn) -> None:
    target = IngestTarget(Client(collection.url, None), "docs")
    collection.most = 3
    collection.refused = {"7"}
    with pytest.raises(Refused) as caught:
        target.put([{"id": str(number), "text": "x"} for number in range(10)])
    assert caught.value.position == 7
    assert str(caught.value) == "'text' is refused"
    assert set(collection.documents) >= {"0", "1", "2", "3", "4"}


def test_many_marks_are_asked_in_urls_of_bearable_length(collection: StandIn) -> None:
    target = IngestTarget(Client(collection.url, None), "docs")
    sources = [f"kb/{'目录' * 20}/{number}" for number in range(100)]
    target.put(
        [
            {"id": f"{source}#0", "text": "x", "metadata": {"source": source, "chunk": 0, "digest": "d", "chunks": 2}}
            for source in sources
        ]
    )
    assert list(target.marks([*sources, "other"])) == sources


# JSON lines


def lines_of(count: int, name: str = "w") -> list[dict[str, Any]]:
    return [{"text": f"{name} {number}", "metadata": {"n": number}} for number in range(count)]


def write_lines(path: Path, documents: list[Any]) -> None:
    path.write_bytes(b"".join(orjson.dumps(document) + b"\n" for document in documents))


def test_json_lines_go_on_behind_what_was_sent(run: Run, collection: StandIn, docs: Path) -> None:
    write_lines(docs / "a.jsonl", [{"id": "own", "text": "x", "vector": [1, 0]}, *lines_of(24)])
    collection.faults = [None, None, 403]
    with pytest.raises(CallFailed):
        run()
    assert len(collection.documents) == 20
    summary = run(lang="en")
    assert summary.sent == 25, "another recipe: nothing of it is there"
    assert collection.documents["own"]["vector"] == [1, 0]
    assert collection.documents["kb/a.jsonl#2"]["metadata"] == {"n": 0, "lang": "en"}
    assert run(lang="en").unchanged == 1
    with (docs / "a.jsonl").open("ab") as file:
        file.write(b'{"text": "added"}\n')
    assert counts(run(lang="en")) == (0, 1, 0, 1, 0)
    assert len(collection.documents) == 26


def test_a_lost_journal_makes_no_doubles(run: Run, collection: StandIn, docs: Path, tmp_path: Path) -> None:
    write_lines(docs / "a.jsonl", lines_of(20))
    run()
    before = dict(collection.documents)
    for file in (tmp_path / "state").rglob("*.json"):
        file.write_bytes(b"{damaged")
    assert run().sent == 20
    assert collection.documents == before


def test_a_line_without_an_end_may_grow(run: Run, collection: StandIn, docs: Path) -> None:
    (docs / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}')
    assert run().sent == 2
    assert run().unchanged == 1
    (docs / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}')
    run()
    assert [document["text"] for document in collection.documents.values()] == ["one", "two", "three"]


def test_faulty_and_refused_lines_are_named_and_the_others_go_in(run: Run, collection: StandIn, docs: Path) -> None:
    documents: list[Any] = lines_of(30)
    documents[4] = [1]
    documents[8] = {"id": "bad", "text": "x"}
    write_lines(docs / "a.jsonl", documents)
    collection.refused = {"bad"}
    for _ in range(2):
        summary = run()
        assert [file for file, _ in summary.failures] == [f"{docs}/a.jsonl:5", f"{docs}/a.jsonl:9"]
        assert len(collection.documents) == 28
    assert summary.sent == 24, "the four before the first fault are known to be in"
    write_lines(docs / "a.jsonl", [["no"]] * 15)
    summary = run()
    assert len(summary.failures) == 11
    assert summary.failures[-1] == (f"{docs}/a.jsonl", "5 more lines failed")


def test_an_id_that_stands_twice_keeps_its_last_text(run: Run, collection: StandIn, docs: Path) -> None:
    write_lines(docs / "a.jsonl", [{"id": "a", "text": "first"}, {"id": "b", "text": "x"}, {"id": "a", "text": "last"}])
    run()
    assert collection.documents["a"]["text"] == "last"


def test_the_journal_of_another_collection_is_not_believed(tmp_path: Path) -> None:
    Journal("one", "s", tmp_path).write(Position(5, 1, "d"))
    assert Journal("one", "s", tmp_path).read() == Position(5, 1, "d")
    assert Journal("two", "s", tmp_path).read() == Position()


def test_long_sources_have_short_ids() -> None:
    assert chunk_id("a/b.md", 3) == "a/b.md#3"
    long = chunk_id("目" * 300, 12)
    assert len(long.encode()) < 64
    assert long.endswith("#12")
    assert long != chunk_id("目" * 301, 12)
