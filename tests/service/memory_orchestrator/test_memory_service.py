"""The memory service: storing, correcting, searching, scopes, expiry, removal, export and import."""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from sage.api.local_environment import LocalEnvironment
from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable
from sage.service import KVService, MemoryOrchestratorService, VDBService, create_memory_service_factory
from sage.service.memory_orchestrator.engine import MemoryEngine

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

Open = Callable[..., MemoryOrchestratorService]


class Clock:
    """Advances by a millisecond at each call, and by :meth:`advance`."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def letters(texts: Sequence[str]) -> np.ndarray:
    """Vectors that are easy to check by hand: how often a text has each letter."""
    return np.array(
        [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnop"] for text in texts], np.float32
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> Iterator[Open]:
    with ExitStack() as stack:

        def start(**options: Any) -> MemoryOrchestratorService:
            options = {"embedder": "none", "clock": clock, **options}
            return stack.enter_context(MemoryOrchestratorService(**options))

        yield start


def contents(memories: list[dict[str, Any]]) -> list[str]:
    return [memory["content"] for memory in memories]


def running_engine(memory: MemoryOrchestratorService) -> MemoryEngine:
    assert memory._engine is not None
    return memory._engine


def test_a_memory_is_found_as_soon_as_it_is_stored(memory: Open) -> None:
    m = memory(embedder=letters)
    id = m.store_memory("s", "Mei lives in Lyon.", metadata={"place": "Lyon", "n": 1}, memory_type="profile")
    (result,) = m.search_memories("Where does Mei live?")
    score = result.pop("score")
    assert 0 <= score <= 1
    assert 0.5 < result.pop("relevance") <= 1
    assert result == {
        "id": id,
        "session_id": "s",
        "content": "Mei lives in Lyon.",
        "memory_type": "profile",
        "metadata": {"place": "Lyon", "n": 1},
        "created_at": result["created_at"],
        "timestamp": result["created_at"],
        "similarity_score": score,
    }
    assert m.get_memory(id) == {name: value for name, value in result.items() if name != "similarity_score"}
    assert contents(m.search_memories(vector=letters(["Mei"])[0].tolist())) == ["Mei lives in Lyon."]


def test_the_same_text_twice_adds_nothing(memory: Open) -> None:
    m = memory()
    first = m.store_memory("s", "Café  on Friday ")
    assert m.store_memory("s", "Cafe\u0301 on\nFriday") == first
    assert m.store_memory("other", "Café on Friday") != first
    assert m.store_memory("s", "Café on Friday", memory_type="fact") != first
    assert m.store_memory("s", "Café on Friday", user="u") != first
    assert len(m.get_session_memories("s")) == 2


def test_storing_a_recalled_text_again_adds_nothing(memory: Open) -> None:
    m = memory()
    text = "The base on the moon is called Selene."
    first = m.store_memory("s", text)
    assert m.store_memory("before", text) != first  # no search has recalled it yet
    m.clear_session("before")
    m.search_memories("base moon")
    assert m.store_memory("another", text) == first
    assert m.get_session_memories("another") == []
    assert m.store_memory("another", text, user="tom") != first


def test_a_correction_supersedes_and_keeps_both(memory: Open, clock: Clock) -> None:
    m = memory()
    first = m.store_memory("s", "Mei lives in Lyon.")
    then = clock()
    clock.advance(10)
    second = m.store_memory("s", "Mei lives in Paris.", supersedes=first)
    assert contents(m.search_memories("Mei lives")) == ["Mei lives in Paris."]
    assert contents(m.search_memories("Mei lives", as_of=then)) == ["Mei lives in Lyon."]
    assert m.search_memories("Mei lives", as_of=then - 100) == []
    assert [one["id"] for one in m.history(first)] == [one["id"] for one in m.history(second)] == [first, second]
    assert m.get_memory(first)["superseded_by"] == second
    assert m.get_memory(second)["supersedes"] == first
    with pytest.raises(Conflict, match=f"superseded already, by '{second}'; correct that one"):
        m.store_memory("s", "Mei lives in Rome.", supersedes=first)
    third = m.restore_memory(first)
    assert contents(m.search_memories("Mei lives")) == ["Mei lives in Lyon."]
    assert [one["id"] for one in m.history(second)] == [first, second, third]
    assert m.update_memory(third, content="Mei lives in Oslo.") != third
    assert contents(m.get_session_memories("s")) == ["Mei lives in Oslo."]


def test_a_correction_to_a_text_that_is_stored_already_keeps_that_memory(memory: Open) -> None:
    m = memory()
    first = m.store_memory("s", "Mei lives in Lyon.")
    second = m.store_memory("s", "Mei moved to Paris.", metadata={"n": 2})
    before = m.get_memory(second)
    assert m.store_memory("s", "Mei moved to Paris.", supersedes=first) == second
    assert m.get_memory(second) == before
    assert contents(m.search_memories("Mei")) == ["Mei moved to Paris."]
    assert m.store_memory("s", "Mei moved to Paris.", supersedes=second) == second


def test_an_update_of_metadata_alone_is_kept(memory: Open) -> None:
    m = memory()
    first = m.store_memory("s", "Mei lives in Lyon.", metadata={"sure": False})
    second = m.update_memory(first, content="Mei lives in Lyon.", metadata={"sure": True})
    assert second != first
    assert [one["metadata"] for one in m.search_memories("Mei")] == [{"sure": True}]
    assert m.update_memory(second, content="Mei lives in Lyon.") == second


def test_a_memory_expires_to_the_second(memory: Open, clock: Clock) -> None:
    m = memory(ttl_seconds=100)
    m.store_memory("s", "for a while", ttl=10)
    longer = m.store_memory("s", "for longer")
    clock.advance(9.9)
    assert len(m.search_memories("for")) == 2
    clock.advance(0.1)
    assert contents(m.search_memories("for")) == ["for longer"]
    assert contents(m.get_session_memories("s")) == ["for longer"]
    assert m.list_sessions()[0]["memories"] == 1
    again = m.store_memory("s", "for a while")
    assert len(m.search_memories("for")) == 2
    clock.advance(100)
    assert m.search_memories("for") == []
    for id in (longer, again):
        assert m.get_memory(id) is None
    running_engine(m).expiry.run_round()
    assert m.export_memories() == {"lines": [], "cursor": None}
    assert m.health()["sweep"] == {"forgotten": 2, "error": None}


def test_memories_are_found_when_the_clock_was_set_back(memory: Open, clock: Clock) -> None:
    m = memory()
    m.store_memory("s", "first words")
    clock.advance(-60)
    m.store_memory("s", "second words")
    assert contents(m.get_session_memories("s")) == ["first words", "second words"]
    assert m.search_memories("second")[0]["content"] == "second words"


@pytest.mark.parametrize("evict", ["oldest", "important"])
def test_a_scope_keeps_at_most_max_size_memories(memory: Open, evict: str) -> None:
    m = memory(max_size=3, evict=evict)
    for number, importance in enumerate([0.9, 0.1, 0.5, 0.7]):
        m.store_memory(f"s{number}", f"memory number {number}", metadata={"importance": importance})
    m.store_memory("s", "of somebody else", user="tom")
    remaining = sorted(contents(m.search_memories("memory number")))
    removed = {"oldest": "memory number 0", "important": "memory number 1"}[evict]
    assert remaining == sorted({f"memory number {number}" for number in range(4)} - {removed})
    old = m.search_memories("number 3")[0]["id"]
    m.store_memory("s3", "memory number 3, corrected", supersedes=old)
    assert len(m.export_memories()["lines"]) == 4  # the superseded one was removed first
    assert "memory number 3, corrected" in contents(m.search_memories("memory number"))


def test_the_oldest_are_removed_even_if_they_were_rewritten_later(memory: Open) -> None:
    m = memory(max_size=100)
    for number in range(130):
        m.store_memory("s", f"turn {number}")
    remaining = contents(m.get_session_memories("s", limit=200))
    assert remaining == [f"turn {number}" for number in range(130 - len(remaining), 130)]
    assert 98 <= len(remaining) <= 100


def test_writers_of_a_bounded_scope_do_not_deadlock(memory: Open) -> None:
    m = memory(max_size=3)

    def write(writer: int) -> None:
        for number in range(25):
            m.store_memory(f"s{(writer * 7 + number) % 8}", f"text {writer} {number}")

    in_parallel(4, write)
    assert len(m.search_memories("text", limit=100)) == 3


def in_parallel(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


@pytest.mark.slow
def test_sixteen_writers_lose_nothing(memory: Open, tmp_path: Path) -> None:
    m = memory(persist_directory=str(tmp_path))
    ids: set[str] = set()

    def write(writer: int) -> None:
        for number in range(10):
            ids.add(m.store_memory(f"s{writer % 3}", f"writer {writer} says {number}"))
            ids.add(m.store_memory("both", f"shared {number}", idempotency_key=f"k{number}"))

    in_parallel(16, write)
    assert len(ids) == 170
    assert len(m.export_memories()["lines"]) == 170
    assert len(m.get_session_memories("both")) == 10


def test_an_idempotency_key_gives_the_same_memory(memory: Open, clock: Clock) -> None:
    m = memory()
    first = m.store_memory("s", "hello there", idempotency_key="k", ttl=50)
    assert m.store_memory("s", "hello there", idempotency_key="k") == first
    with pytest.raises(Conflict, match=f"'k' was used for another memory \\('{first}'\\)"):
        m.store_memory("s", "other text", idempotency_key="k")
    second = m.store_memory("s", "corrected", supersedes=first)
    assert (
        m.store_memory("s", "hello there", idempotency_key="k") == first
    )  # a late retry does not bring the old text back
    assert contents(m.search_memories("hello corrected")) == ["corrected"]
    clock.advance(60)
    assert m.store_memory("s", "anything", idempotency_key="k") not in (first, second)
    recalled = "a text that was recalled elsewhere"
    third = m.store_memory("s", recalled)
    m.search_memories("recalled elsewhere")
    assert [m.store_memory("t", recalled, idempotency_key="once") for _ in range(2)] == [third, third]
    m.store_memory("s", "the same text", idempotency_key="soon")
    m.store_memory("s", "the same text", idempotency_key="later")
    with pytest.raises(Conflict):
        m.store_memory("s", "something else", idempotency_key="later")


def test_scopes_never_leak(memory: Open) -> None:
    m = memory()
    scopes: list[dict[str, str]] = [
        {}, {"user": "a"}, {"agent": "a"}, {"user": "a", "agent": "b"}, {"user": "b", "agent": "a"}, {"tenant": "t"},
        {"tenant": "t", "user": "a"},
    ]  # fmt: skip
    ids = [m.store_memory("s", f"the word of scope {number}", **scope) for number, scope in enumerate(scopes)]
    for number, scope in enumerate(scopes):
        assert [one["id"] for one in m.search_memories("word of scope", limit=50, **scope)] == [ids[number]]
        assert [one["id"] for one in m.get_session_memories("s", **scope)] == [ids[number]]
        assert m.list_sessions(**scope)[0]["memories"] == 1
        for other in set(ids) - {ids[number]}:
            assert m.get_memory(other, **scope) is None
            for call in (m.history, m.restore_memory):
                with pytest.raises(NotFound):
                    call(other, **scope)
            assert not m.delete_memory(other, **scope)
            with pytest.raises(NotFound):
                m.store_memory("s", "a correction from elsewhere", supersedes=other, **scope)
    assert m.clear_session("s", user="a") == 1
    assert [bool(m.search_memories("word", **scope)) for scope in scopes] == [n != 1 for n in range(len(scopes))]


def test_metadata_replaces_neither_session_nor_type(memory: Open) -> None:
    m = memory()
    metadata = {
        "session": "x",
        "session_id": "x",
        "type": "x",
        "user": "x",
        "tenant": "x",
        "expires": 0,
        "meta": {"a": 1},
    }
    id = m.store_memory("s", "hello", metadata=metadata, user="u")
    stored = m.get_memory(id, user="u")
    assert (stored["session_id"], stored["memory_type"], stored["metadata"]) == ("s", "conversation", metadata)
    assert m.search_memories("hello", user="u", filter={"meta.a": 1, "session": "x"})


def test_filters_act_before_the_best_are_chosen(memory: Open) -> None:
    m = memory(embedder=letters)
    for number in range(60):
        m.store_memory(f"s{number % 3}", f"tea number {number}", metadata={"n": number, "tags": ["x", str(number % 2)]})
    results = m.search_memories("tea number 1", limit=5, filter={"n": {"$gte": 50}, "tags": "1"}, session_id="s0")
    assert sorted(result["metadata"]["n"] for result in results) == [51, 57]
    results = m.search_memories("tea", limit=20, filter={"$or": [{"n": 3}, {"$not": {"n": {"$lt": 58}}}]})
    assert sorted(result["metadata"]["n"] for result in results) == [3, 58, 59]
    with pytest.raises(InvalidRequest, match=r"filter.n.\$near"):
        m.search_memories("tea", filter={"n": {"$near": 3}})


def test_a_turn_is_also_found_by_the_turns_before_it(memory: Open) -> None:
    m = memory()
    m.store_memory("s", "Shall we talk about zebras?")
    answer = m.store_memory("s", "Yes, they are my favourite.")
    m.store_memory("elsewhere", "Nothing of the kind.")
    assert answer in [one["id"] for one in m.search_memories("zebras")]
    assert m.get_memory(answer)["content"] == "Yes, they are my favourite."


def test_words_of_removed_memories_leave_the_context_of_other_turns(memory: Open, clock: Clock) -> None:
    m = memory()
    zebra = m.store_memory("s", "My zebra is ill.")
    for text in ("Oh no.", "Poor thing.", "Is it?"):
        m.store_memory("s", text)
    assert len(m.search_memories("zebra")) == 3
    m.store_memory("s", "My cat is ill.", supersedes=zebra)
    assert m.search_memories("zebra") == []
    assert m.store_memory("s", "The giraffe, for a moment.", ttl=1)
    clock.advance(2)
    m.store_memory("s", "After the moment.")
    assert m.search_memories("giraffe") == []


def test_restoring_a_text_that_is_current_elsewhere_takes_the_latest_out_of_the_context(memory: Open) -> None:
    m = memory()
    first = m.store_memory("s", "My zebra is ill.")
    m.store_memory("s", "My giraffe is ill.", supersedes=first)
    same_text = m.store_memory("s", "My zebra is ill.")
    assert m.restore_memory(first) == same_text
    m.store_memory("s", "And then?")
    assert m.search_memories("giraffe") == []


def test_a_soft_delete_can_be_undone(memory: Open, clock: Clock) -> None:
    m = memory()
    id = m.store_memory("s", "hello there my friend")
    clock.advance(1)
    assert m.delete_memory(id, hard=False)
    assert not m.delete_memory(id, hard=False)
    assert m.search_memories("hello") == []
    deleted = clock()
    clock.advance(1)
    again = m.restore_memory(id)
    assert contents(m.search_memories("hello")) == ["hello there my friend"]
    assert m.search_memories("hello", as_of=deleted) == []
    assert m.restore_memory(id) == m.restore_memory(again) == again


def test_after_a_hard_delete_no_trace_is_in_any_file(memory: Open, tmp_path: Path) -> None:
    m = memory(embedder=letters, persist_directory=str(tmp_path))
    words = ["zanzibarword", "quixotword", "metaword", "sessionword"]
    for number in range(20):
        m.store_memory("s", f"an ordinary turn {number}")
    id = m.store_memory("s", f"I said {words[0]} then.", metadata={"k": words[2], "deep": {"er": [words[2]]}})
    corrected = m.store_memory("s", f"I meant {words[1]}.", supersedes=id)
    for number in range(3):
        m.store_memory("s", f"a turn after it {number}")
    m.store_memory(words[3], "a session of its own")
    m.search_memories(words[1])
    assert traces(tmp_path, words) == set(words)
    assert m.delete_memory(corrected)
    assert m.clear_session(words[3]) == 1
    assert traces(tmp_path, [*words, id, corrected]) == set()
    assert len(m.get_session_memories("s")) == 23
    assert not m.delete_memory(corrected)


def traces(directory: Path, words: list[str]) -> set[str]:
    data = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    assert data
    return {word for word in words if word.encode() in data}


def test_export_and_import_lose_nothing(memory: Open, tmp_path: Path, clock: Clock) -> None:
    one = memory(embedder=letters)
    first = one.store_memory("s", "Mei lives in Lyon.", metadata={"a": [1, None, {"b": 2.5}]}, ttl=1000, user="u")
    one.store_memory("s", "Mei lives in Paris.", supersedes=first, idempotency_key="k", user="u")
    one.store_memory("s", "And then?", agent="a")
    lines, cursor = [], None
    while True:
        page = one.export_memories(limit=1, cursor=cursor)
        lines += page["lines"]
        if (cursor := page["cursor"]) is None:
            break
    assert len(lines) == 3
    other = memory(embedder=letters, persist_directory=str(tmp_path))
    assert other.import_memories(lines) == 3
    assert sorted(other.export_memories()["lines"]) == sorted(lines)
    assert other.history(first, user="u") == one.history(first, user="u")
    assert other.search_memories("Mei", user="u") == one.search_memories("Mei", user="u")
    assert other.import_memories(lines) == 3
    assert len(other.export_memories()["lines"]) == 3


@pytest.mark.parametrize("spoil", ["{", "[]", '{"format": 2}', '{"format": 1, "id": "x"}'])
def test_a_bad_line_is_named_and_nothing_is_imported(memory: Open, spoil: str) -> None:
    m = memory()
    m.store_memory("s", "hello")
    (line,) = m.export_memories()["lines"]
    m.clear_session("s")
    with pytest.raises(InvalidRequest, match="line 2"):
        m.import_memories([line, spoil])
    assert m.export_memories()["lines"] == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", "", "'id' must be a text of 1 to 512"),
        ("session", "x" * 513, "'session' must be"),
        ("type", " ", "'type' must be"),
        ("user", 5, "'user' must be"),
        ("agent", "x" * 513, "'agent' must be"),
        ("supersedes", None, "'supersedes' must be"),
        ("content", "  ", "'content' must be a text that is not empty"),
        ("content", "x" * 1_000_001, "'content' has 1,000,001 bytes"),
        ("keywords", None, "'keywords' must be a text"),
        ("created", True, "'created' must be a time"),
        ("expires", "soon", "'expires' must be a time"),
        ("superseded", None, "'superseded' must be a time"),
        ("sources", ["a", 1], "'sources' must be a list of texts"),
        ("uses", [], "'uses' must be as long as 'keys'"),
        ("metadata", [1], "'metadata' must be an object"),
        ("metadata", None, "'metadata' must be an object"),
        ("metadata", {"a": "y" * 20_000}, "'metadata' has 20,008 bytes"),
        ("vector", ["1", "2"], "'vector' must be a list of numbers"),
        ("vector", [1e300], "not finite"),
    ],
)
def test_an_imported_memory_is_checked_like_a_stored_one(memory: Open, field: str, value: Any, message: str) -> None:
    m = memory()
    m.store_memory("s", "hello", [1.0, 0.0], idempotency_key="k")
    (line,) = m.export_memories()["lines"]
    m.clear_session("s")
    bad = {**orjson.loads(line), field: value}
    with pytest.raises(InvalidRequest, match=f"^line 2: .*{message}"):
        m.import_memories([line, orjson.dumps(bad).decode()])
    del bad[field]
    with pytest.raises(InvalidRequest, match=f"^line 1: .*'{field}'"):
        m.import_memories([orjson.dumps(bad).decode()])
    assert m.export_memories()["lines"] == []
    assert m.import_memories([line]) == 1


def test_a_circle_of_imported_corrections_ends(memory: Open) -> None:
    m = memory()
    ids = [m.store_memory("s", text) for text in ("one", "two")]
    exported = {line["id"]: line for line in map(orjson.loads, m.export_memories()["lines"])}
    for id, other in (ids, reversed(ids)):
        exported[id]["supersedes"] = exported[id]["superseded_by"] = other
    m.import_memories([orjson.dumps(line).decode() for line in exported.values()])
    assert {one["id"] for one in m.history(ids[0])} == set(ids)


def test_recency_importance_and_diversity_are_options(memory: Open, clock: Clock) -> None:
    m = memory(embedder=letters)
    old = m.store_memory("a", "green tea is good", metadata={"importance": 1})
    clock.advance(90 * 86400)
    new = m.store_memory("b", "green tea is good.", metadata={"importance": 0})
    same = m.store_memory("c", "green tea is good!", metadata={"importance": 0.2})
    far = m.store_memory("d", "tea from China")
    assert m.search_memories("green tea", recency=1.0)[0]["id"] in (new, same)
    assert m.search_memories("green tea", importance=1.0)[0]["id"] == old
    diverse = m.search_memories("green tea", diversity=0.9, limit=2)
    assert diverse[1]["id"] == far
    (best, *_) = m.search_memories("green tea", recency=0.5, importance=0.5, explain=True)
    assert {"relevance", "recency", "importance", "dense", "bm25", "detail"} <= best["explanation"].keys()
    assert "explanation" not in m.search_memories("green tea")[0]


def test_results_below_the_threshold_are_left_out(memory: Open) -> None:
    m = memory()
    m.store_memory("s", "east", [1.0, 0.0])
    m.store_memory("s", "north", [0.0, 1.0])
    assert contents(m.search_memories(vector=[1.0, 0.1], score_threshold=0.5)) == ["east"]
    assert len(m.search_memories(vector=[1.0, 0.1])) == 2


def by_words(texts: list[str]) -> Any:
    """A count of each word, which collide seldom."""
    rows = np.zeros((len(texts), 256), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            row[zlib.crc32(word.encode()) % 256] += 1
    return rows


def test_a_threshold_means_the_same_for_every_question(memory: Open) -> None:
    m = memory(embedder=by_words)
    m.store_memory("s", "My cat is called Momo.")
    m.store_memory("t", "Momo, the cat, sleeps all day.")
    m.store_memory("u", "The rent goes up by fifty euros.")
    relevant = m.search_memories("the cat Momo", score_threshold=0.3)
    assert sorted(contents(relevant)) == ["Momo, the cat, sleeps all day.", "My cat is called Momo."]
    assert all(0.3 <= memory["relevance"] <= 1 for memory in relevant)
    assert m.search_memories("quartz zyzzyva", score_threshold=0.3) == []
    assert m.search_memories("quartz zyzzyva", score_threshold=0.9) == []
    assert len(m.search_memories("quartz zyzzyva")) == 3
    (same,) = m.search_memories("The rent goes up by fifty euros.", score_threshold=0.95)
    assert same["relevance"] == pytest.approx(1)
    assert len(m.search_memories("the cat Momo", score_threshold=0)) == 3
    assert m.search_memories("the cat Momo", score_threshold=1.5) == []
    reordered = m.search_memories("the cat Momo", score_threshold=0.3, recency=1.0, importance=0.5, diversity=0.5)
    assert sorted(contents(reordered)) == sorted(contents(relevant))


def test_a_threshold_goes_by_words_where_there_is_no_embedder(memory: Open) -> None:
    m = memory(embedder=None)
    m.store_memory("s", "My cat is called Momo.")
    m.store_memory("t", "The rent goes up by fifty euros.")
    (found,) = m.search_memories("Is Momo the cat?", score_threshold=0.9)
    assert found["relevance"] == pytest.approx(1)
    assert m.search_memories("Momo and the dragon", score_threshold=0.9) == []
    assert m.search_memories("dragon", score_threshold=0.1) == []


def test_sessions_are_listed_and_described(memory: Open) -> None:
    m = memory()
    for session, text in (("b", "one"), ("a", "two"), ("b", "three"), ("b", "four")):
        m.store_memory(session, text, memory_type="note" if text == "four" else "conversation")
    assert [(one["session_id"], one["memories"]) for one in m.list_sessions()] == [("a", 1), ("b", 3)]
    assert [one["session_id"] for one in m.list_sessions(after="a")] == ["b"]
    turns = m.get_session_memories("b")
    assert contents(turns) == ["one", "three", "four"]
    assert contents(m.get_session_memories("b", limit=1, cursor=turns[0]["id"])) == ["three"]
    assert contents(m.get_session_memories("b", memory_type="note")) == ["four"]
    with pytest.raises(NotFound, match="no memory 'nowhere' in the session"):
        m.get_session_memories("b", cursor="nowhere")
    assert m.get_session_metadata("b") == {
        "session_id": "b",
        "memories": 3,
        "first_at": turns[0]["created_at"],
        "last_at": turns[2]["created_at"],
        "types": {"conversation": 2, "note": 1},
    }
    assert m.get_session_metadata("c") is None


def test_a_store_that_fails_leaves_nothing(memory: Open) -> None:
    def broken(texts: Sequence[str]) -> np.ndarray:
        if any("bad" in text for text in texts):
            raise Unavailable("the embedder is down")
        return letters(texts)

    m = memory(embedder=broken)
    first = m.store_memory("s", "good")
    for options in ({}, {"supersedes": first}):
        with pytest.raises(Unavailable):
            m.store_memory("s", "bad", **options)
    assert contents(m.search_memories("good")) == ["good"]
    assert "superseded_at" not in m.get_memory(first)
    assert len(m.export_memories()["lines"]) == 1
    results = m.search_memories("bad good", explain=True)  # a search continues by keywords alone, with a warning
    assert contents(results) == ["good"]
    assert "the embedder is down" in results[0]["explanation"]["warning"]


def test_the_embedders_vectors_yield_to_vectors_of_the_caller(memory: Open) -> None:
    m = memory(embedder=letters)
    m.store_memory("s", "with a vector of two", [1.0, 0.0])
    m.store_memory("s", "with no vector")
    assert set(contents(m.search_memories("vector"))) == {"with a vector of two", "with no vector"}
    with pytest.raises(InvalidRequest, match="dimensions"):
        m.store_memory("s", "with one of three", [1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.store_memory("", "x"),
        lambda m: m.store_memory("s", "  "),
        lambda m: m.store_memory("s", "bad \ud800 text"),
        lambda m: m.store_memory("s\ud800", "x"),
        lambda m: m.store_memory("s", "x" * 1_000_001),
        lambda m: m.store_memory("s", "x", 5),
        lambda m: m.store_memory("s", "x", [float("nan")]),
        lambda m: m.store_memory("s", "x", metadata={"a": object()}),
        lambda m: m.store_memory("s", "x", metadata={"a": "y" * 20_000}),
        lambda m: m.store_memory("s", "x", metadata=[1]),
        lambda m: m.store_memory("s", "x", ttl=0),
        lambda m: m.store_memory("s", "x", user=""),
        lambda m: m.store_memory("s", "x", idempotency_key=5),
        lambda m: m.search_memories(),
        lambda m: m.search_memories(" "),
        lambda m: m.search_memories("x", limit=0),
        lambda m: m.search_memories("x", recency=2),
        lambda m: m.search_memories("x", filter={1: 2}),
        lambda m: m.search_memories("x", filter={"": 1}),
        lambda m: m.search_memories("x", filter=[1]),
        lambda m: m.get_session_memories("s", limit=0),
        lambda m: m.search_memories("x", filter={"a": None}),
        lambda m: m.search_memories("x", filter={"$not": {"a": {"$exists": True}}}),
        lambda m: m.search_memories("x", rerank=5),
        lambda m: m.list_sessions(after=5),
        lambda m: m.import_memories([5]),
    ],
)
def test_bad_input_is_refused_and_nothing_stored(memory: Open, call: Callable[[Any], Any]) -> None:
    m = memory()
    with pytest.raises(InvalidRequest):
        call(m)
    assert m.export_memories()["lines"] == []


@pytest.mark.slow
def test_large_memories_of_one_session_are_all_stored(memory: Open) -> None:
    m = memory()
    for number in range(3):
        m.store_memory("s", chr(0x4E00 + number) * 300_000)
    assert len(m.get_session_memories("s")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": 0}, "max_size"),
        ({"evict": "random"}, "evict"),
        ({"facts_model": "m"}, "generate"),
        ({"ttl_seconds": -1}, "ttl"),
        ({"vdb_service_name": "v", "persist_directory": "p"}, "the service 'v' stores the memories"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        MemoryOrchestratorService(**options)


def test_a_factory_names_its_needs_and_the_nearest_keyword() -> None:
    factory = create_memory_service_factory(kv_service_name="k", vdb_service_name="v")
    assert factory.needs == ("k", "v")
    with pytest.raises(InvalidRequest, match="did you mean 'persist_directory'"):
        create_memory_service_factory(persist_dir="x")


@pytest.mark.parametrize("backend", ["retrieval", pytest.param("chroma", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_named_services_store_the_memories(backend: str) -> None:
    env = LocalEnvironment("memory", {"discovery": None})
    env.register_service(
        "m", create_memory_service_factory(kv_service_name="k", vdb_service_name="v", embedder=letters)
    )
    env.register_service("v", VDBService, backend=backend)
    env.register_service("k", KVService)
    with env:
        m = env.call_service["m"]
        text = "hello there my dear friend"
        first = m.store_memory("s", text, metadata={"k": 1, "deep": {"er": ["x"]}})
        m.store_memory("s", "something quite different")
        assert m.search_memories("hello", filter={"deep.er": "x"}, explain=True)[0]["id"] == first
        assert m.store_memory("s2", text) == first
        second = m.store_memory("s", "hello, corrected", supersedes=first)
        assert [one["id"] for one in m.history(first)] == [first, second]
        assert m.delete_memory(second)
        assert contents(m.get_session_memories("s")) == ["something quite different"]
        counted = {one["name"]: one["statistics"]["calls"] for one in env.services()}
        assert counted["k"] > 0
        assert counted["v"] > 10
        health = next(one["health"] for one in env.services() if one["name"] == "m")
        assert health["bytes_may_stay"] is (backend == "chroma")


def test_the_old_module_warns_and_works() -> None:
    import sage.service.memory as old

    with pytest.warns(DeprecationWarning, match="from sage.service import MemoryOrchestratorService"):
        assert old.MemoryService is MemoryOrchestratorService
    with pytest.raises(AttributeError):
        _ = old.nothing


def test_a_service_that_is_not_running_refuses_calls() -> None:
    with pytest.raises(SageError, match="is not running"):
        MemoryOrchestratorService().search_memories("x")


@pytest.mark.slow
def test_a_correction_may_go_back_and_forth_for_long(memory: Open) -> None:
    m = memory()
    ids = [m.store_memory("s", "tea")]
    for turn in range(80):
        ids.append(m.store_memory("s", "coffee" if turn % 2 == 0 else "tea", supersedes=ids[-1]))
    assert len(set(ids)) == 81
    assert contents(m.get_session_memories("s")) == ["tea"]
    assert [one["id"] for one in m.history(ids[0])] == ids
    assert m.store_memory("s", "tea") == ids[-1]


def test_a_page_of_a_session_is_in_the_order_of_storing_whatever_was_corrected(memory: Open) -> None:
    m = memory()
    ids = [m.store_memory("s", f"turn {number}") for number in range(7)]
    m.store_memory("t", "elsewhere")
    m.store_memory("s", "soon gone", ttl=0.0001)
    corrected = m.update_memory(ids[2], content="turn two")  # rewrites the turns that are found by its words, too
    expected = [*ids[:2], *ids[3:], corrected]
    paged: list[str] = []
    while page := m.get_session_memories("s", limit=2, cursor=paged[-1] if paged else None):
        paged += [one["id"] for one in page]
    assert paged == expected
    described = m.get_session_metadata("s")
    assert (described["memories"], described["types"]) == (7, {"conversation": 7})
    assert [(one["session_id"], one["memories"]) for one in m.list_sessions(limit=1)] == [("s", 7)]


class BusyVDB(VDBService):
    """Its purges do what ``on_purge`` does: wait, or fail as long as somebody reads."""

    def __init__(self, on_purge: Callable[[], None]) -> None:
        super().__init__()
        self._on_purge = on_purge

    def purge(self, **target: Any) -> None:
        self._on_purge()
        super().purge(**target)


def test_a_purge_that_failed_is_tried_again_though_another_one_ended_after_it() -> None:
    began, may_end, purges = threading.Event(), threading.Event(), list[str]()

    def on_purge() -> None:
        purges.append(threading.current_thread().name)
        if len(purges) == 1:
            began.set()
            assert may_end.wait(20)
        elif len(purges) == 2:
            raise Unavailable("somebody reads", code="not_yet_purged")

    env = LocalEnvironment("test", {"discovery": None})
    env.register_service("vdb", BusyVDB, on_purge)
    env.register_service("memory", MemoryOrchestratorService, vdb_service_name="vdb", embedder=None)
    with env:
        m = env.call_service["memory"]
        first, second = m.store_memory("s", "first"), m.store_memory("t", "second")
        with ThreadPoolExecutor(1) as thread:
            deletion = thread.submit(m.delete_memory, first)
            assert began.wait(20)
            with pytest.raises(Unavailable, match="somebody reads"):
                m.delete_memory(second)
            may_end.set()
            assert deletion.result(20)
        assert len(purges) == 2
        service = next(host for name, host in env._services._hosts.items() if name == "memory")._service
        for expected in (3, 3):
            service._engine.expiry.run_round()
            assert len(purges) == expected
