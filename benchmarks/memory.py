"""Memory: whether a search finds the turns that hold the answer, on conversations with evidence labels.

It takes files in LoCoMo's layout (Maharana et al., "Evaluating very long-term conversational memory of LLM agents", ACL
2024). Of every question that names its evidence, and is not of the adversarial category, recall@k is the share of its
evidence turns among the k best; what is printed is the mean over questions. Each conversation has a store of its own.
No model but the embedder is called. Exit status 1 if an answer was malformed, never because of a figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.embedding.builtin import builtin_embedder
from sage.middleware.retrieval.embedding.functions import FunctionEmbedder
from sage.middleware.retrieval.embedding.protocols import EmbedFunction
from sage.service.memory_orchestrator.memory_service import MemoryOrchestratorService

CUTOFFS = (5, 10)
GOALS = {5: 0.68, 10: 0.76}
"""Over all ten conversations of LoCoMo."""
SERVICE = "memory service"
CATEGORIES = {1: "several turns", 2: "time", 3: "open", 4: "one turn", 5: "adversarial"}
ADVERSARIAL = 5
"""Questions of this category have no answer in the conversation: the turn that they name says something else."""

_DAY = 86400.0
_DATE = re.compile(r"(?:(\d+):(\d+) ([ap]m) on )?(\d+) ([A-Z][a-z]+),? (\d{4})")
"""``1:56 pm on 8 May, 2023``."""
_EVIDENCE = re.compile(r"D:?(\d+):(\d+)")
"""Some labels are misspelt (``D:11:26``, ``D30:05``), and some texts hold two."""

Search = Callable[[str, int], Sequence[tuple[Sequence[str], float]]]
"""``search(question, limit)`` returns the best memories: for each, the ids of its turns and its score."""


@dataclass(frozen=True, slots=True)
class Turn:
    id: str
    session: str
    content: str
    speaker: str
    at: float
    """When its session began, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    evidence: frozenset[str]
    category: int


@dataclass(frozen=True, slots=True)
class Conversation:
    name: str
    turns: list[Turn]
    questions: list[Question]
    """Those that name turns of the conversation as evidence, without the adversarial ones."""
    left_out: int


@dataclass(slots=True)
class Recall:
    """Of one way of searching, by cut-off: for every question, the share of its evidence among the best results."""

    shares: dict[int, list[float]] = field(default_factory=lambda: {cutoff: [] for cutoff in CUTOFFS})
    categories: list[int] = field(default_factory=list)

    def mean(self, cutoff: int, category: int | None = None) -> float:
        shares = [
            share
            for share, kind in zip(self.shares[cutoff], self.categories, strict=True)
            if category is None or kind == category
        ]
        return statistics.fmean(shares) if shares else math.nan

    def margin(self, cutoff: int) -> float:
        """Half the 95 % interval of the mean, as if the questions were a random sample."""
        shares = self.shares[cutoff]
        return 1.96 * statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.nan


@dataclass(slots=True)
class Report:
    conversations: int = 0
    turns: int = 0
    questions: int = 0
    left_out: int = 0
    recall: dict[str, Recall] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def read(path: Path, *, captions: bool = True) -> list[Conversation]:
    """With ``captions``, the text of a turn that shares a picture includes its caption, as in the data set's own
    evaluation."""
    content = json.loads(path.read_text(encoding="utf-8"))
    samples = content if isinstance(content, list) else [content]
    return [_conversation(sample, f"{path.stem}/{index}", captions) for index, sample in enumerate(samples)]


def _conversation(sample: Mapping[str, Any], name: str, captions: bool) -> Conversation:
    turns = list(_turns(sample["conversation"], captions))
    turn_ids = {turn.id for turn in turns}
    questions = [
        Question(entry["question"], _labels(entry.get("evidence") or ()) & turn_ids, int(entry["category"]))
        for entry in sample["qa"]
    ]
    usable = [question for question in questions if question.evidence and question.category != ADVERSARIAL]
    return Conversation(str(sample.get("sample_id", name)), turns, usable, len(questions) - len(usable))


def _turns(conversation: Mapping[str, Any], captions: bool) -> Iterator[Turn]:
    sessions = [key for key, value in conversation.items() if re.fullmatch(r"session_\d+", key) and value]
    at = 0.0
    for session in sorted(sessions, key=lambda key: int(key.rpartition("_")[2])):
        at = _time(str(conversation.get(f"{session}_date_time", "")), at + _DAY)
        for turn in conversation[session]:
            content = f"{turn['speaker']}: {turn['text'].strip()}"
            if captions and turn.get("blip_caption"):
                content += f" [{turn['blip_caption']}]"
            yield Turn(turn["dia_id"], session, content, turn["speaker"], at)


def _time(text: str, default: float) -> float:
    """The time of a session as the set writes it, taken as UTC."""
    if (match := _DATE.search(text)) is None:
        return default
    hour, minute, half, day, month, year = match.groups(default="")
    clock = f"{hour}:{minute} {half}" if hour else "12:00 pm"
    moment = datetime.strptime(f"{day} {month} {year} {clock}", "%d %B %Y %I:%M %p")
    return moment.replace(tzinfo=UTC).timestamp()


def _labels(evidence: Sequence[str]) -> frozenset[str]:
    matches = (match for label in evidence for match in _EVIDENCE.finditer(str(label)))
    return frozenset(f"D{int(match[1])}:{int(match[2])}" for match in matches)


def measure(conversations: Sequence[Conversation], embed: EmbedFunction | None = None) -> Report:
    """All ways of searching. ``embed`` takes the place of the local embedder."""
    report = measure_arrangements(conversations, embed)
    for conversation in conversations:
        now = _Clock()
        with MemoryOrchestratorService(embedder=embed or "local", clock=now) as memory:
            ask(conversation, SERVICE, _remembered(memory, conversation, now), report)
    return report


class _Clock:
    """The service's clock: it shows the time of the turn that is stored."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def measure_arrangements(conversations: Sequence[Conversation], embed: EmbedFunction | None = None) -> Report:
    """The parts of the service's own way of searching, and other ways, on collections without the service."""
    report = Report()
    for conversation in conversations:
        report.conversations += 1
        report.turns += len(conversation.turns)
        report.questions += len(conversation.questions)
        report.left_out += conversation.left_out
        for way, search in _arrangements(conversation, embed):
            ask(conversation, way, search, report)
    return report


def _arrangements(conversation: Conversation, embed: EmbedFunction | None) -> Iterator[tuple[str, Search]]:
    embedder = FunctionEmbedder(embed) if embed else builtin_embedder("local")
    assert embedder is not None  # it raises MissingExtra
    vectors = embedder.embed([turn.content for turn in conversation.turns])
    for reach, ways in _WAYS.items():
        with VectorStore(embedder=embed or "local") as store:
            store.add_documents(
                joined(conversation.turns, reach), ids=[turn.id for turn in conversation.turns], vectors=vectors
            )
            for way, options in ways.items():
                yield way, _searched(store, options)


_WAYS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "keywords on the turn": {"mode": "bm25"},
        "vectors of the turn": {"mode": "dense"},
        "both, completed min-max": {},
        "both, rank fusion": {"fusion": "rrf"},
    },
    2: {
        "keywords on two turns": {"mode": "bm25"},
        "keywords on two turns, vectors of the turn": {},
        "the same, rank fusion": {"fusion": "rrf"},
    },
    3: {"keywords on three turns, vectors of the turn": {}},
    4: {"keywords on four turns, vectors of the turn": {}},
}


def joined(turns: Sequence[Turn], reach: int) -> list[str]:
    """For every turn, its text after those of the turns before it in its session, ``reach`` turns in all."""
    texts = []
    for index, turn in enumerate(turns):
        before = turns[max(0, index - reach + 1) : index + 1]
        texts.append("\n".join(other.content for other in before if other.session == turn.session))
    return texts


def _searched(store: VectorStore, options: Mapping[str, Any]) -> Search:
    def search(question: str, limit: int) -> list[tuple[list[str], float]]:
        return [([result.id], result.score) for result in store.search(question, top_k=limit, **options)]

    return search


def _remembered(memory: MemoryOrchestratorService, conversation: Conversation, now: _Clock) -> Search:
    """Two turns with the same text in a session are one memory, which stands for both turns. Each is stored at the time
    of its session, with its speaker in the metadata."""
    turns_of: dict[str, list[str]] = {}
    for turn in conversation.turns:
        now.time = turn.at
        id = memory.store_memory(turn.session, turn.content, metadata={"speaker": turn.speaker})
        turns_of.setdefault(id, []).append(turn.id)

    def search(question: str, limit: int) -> list[tuple[list[str], float]]:
        return [(turns_of[result["id"]], result["score"]) for result in memory.search_memories(question, limit=limit)]

    return search


def ask(conversation: Conversation, way: str, search: Search, report: Report) -> None:
    """Asks all questions. ``report`` gets the shares of evidence under ``way``, and the malformed answers."""
    recall = report.recall.setdefault(way, Recall())
    for question in conversation.questions:
        results = search(question.text, CUTOFFS[-1])
        for wrong in _faults(results):
            report.failures.append(f"{conversation.name}: {way}: {wrong} for {question.text!r}")
        for cutoff in CUTOFFS:
            best = {turn for turns, _ in results[:cutoff] for turn in turns}
            recall.shares[cutoff].append(len(question.evidence & best) / len(question.evidence))
        recall.categories.append(question.category)


def _faults(results: Sequence[tuple[Sequence[str], float]]) -> Iterator[str]:
    scores = [score for _, score in results]
    if scores != sorted(scores, reverse=True) or not all(map(math.isfinite, scores)):
        yield "scores out of order"
    turns = [turn for turns, _ in results for turn in turns]
    if len(set(turns)) < len(turns):
        yield "a turn is given twice"
    if len(results) > CUTOFFS[-1]:
        yield f"{len(results)} memories instead of at most {CUTOFFS[-1]}"


def main() -> int:
    options = _options()
    conversations = [one for path in options.files for one in read(path, captions=not options.without_captions)]
    report = measure(conversations)
    if options.json:
        print(json.dumps(_figures(report)))
    else:
        _print(report)
    for failure in report.failures[:20]:
        print(f"WRONG: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


def _figures(report: Report) -> dict[str, Any]:
    figures = dataclasses.asdict(report)
    figures["recall"] = {
        way: {f"recall@{cutoff}": recall.mean(cutoff) for cutoff in CUTOFFS} for way, recall in report.recall.items()
    }
    return figures


def _print(report: Report) -> None:
    print(
        f"{report.conversations} conversations, {report.turns:,} turns; {report.questions:,} questions with evidence "
        f"({report.left_out:,} left out: adversarial, or without evidence)\n"
        "recall@k: share of a question's evidence turns among the k best, mean over questions ± 95 % interval\n"
    )
    for way, recall in report.recall.items():
        figures = "   ".join(f"@{cutoff} {recall.mean(cutoff):.3f} ± {recall.margin(cutoff):.3f}" for cutoff in CUTOFFS)
        print(f"  {way:<46} {figures}{_goals(recall) if way == SERVICE else ''}")
    service = report.recall[SERVICE]
    for category in sorted(set(service.categories)):
        figures = "   ".join(f"@{cutoff} {service.mean(cutoff, category):.3f}" for cutoff in CUTOFFS)
        count = service.categories.count(category)
        print(f"    of which {CATEGORIES.get(category, category)} ({count} questions): {figures}")


def _goals(recall: Recall) -> str:
    marks = (
        f"@{cutoff} ≥ {goal:.2f} {'reached' if recall.mean(cutoff) >= goal else 'MISSED'}"
        for cutoff, goal in GOALS.items()
    )
    return "   goal " + ", ".join(marks)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="conversations in LoCoMo's layout (JSON)")
    parser.add_argument("--data", type=Path, action="append", default=[], metavar="FILE", help="the same")
    parser.add_argument("--without-captions", action="store_true", help="turns without the captions of their pictures")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    options = parser.parse_args()
    options.files += options.data
    if not options.files:
        parser.error("give a FILE: conversations in LoCoMo's layout")
    return options


if __name__ == "__main__":
    sys.exit(main())
