"""The benchmark of memory: it reads LoCoMo's layout, misspelt labels included, and computes recall correctly."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import memory

LANTERNS = [f"lantern number {number}" for number in range(6)]


def turns_of(session: int, *texts: str) -> list[dict[str, Any]]:
    return [
        {"speaker": "Ann" if index % 2 else "Ben", "dia_id": f"D{session}:{index + 1}", "text": text}
        for index, text in enumerate(texts)
    ]


def question_of(question: str, category: int, *evidence: str) -> dict[str, Any]:
    return {"question": question, "category": category, "evidence": list(evidence), "answer": "not used"}


SAMPLE = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ann",
        "speaker_b": "Ben",
        "session_10_date_time": "noon on 3 May, 2023",
        "session_10": turns_of(10, "no wind at all", "so the harbour stayed quiet"),
        "session_2_date_time": "noon on 2 May, 2023",
        "session_2": turns_of(2, "what does your boat look like?", "a ketch, painted green", "lovely"),
        "session_1_date_time": "noon on 1 May, 2023",
        "session_1": turns_of(1, *LANTERNS, "among a great many other things that were on my mind there was a lantern"),
        "session_11_date_time": "noon on 4 May, 2023",
    },
    "qa": [
        question_of("harbour?", 1, "D10:2", "D2:2"),  # one of its two turns has the word
        question_of("boat", 4, "D2:2"),  # only the turn before it has the word
        question_of("lantern", 2, "D1:7"),  # the longest of seven, so it is ranked last
        question_of(
            "wind", 3, "D:10:1; D010:01", "D99:1"
        ),  # misspelt, given twice, and next to one that does not exist
        question_of("ketch", 5, "D2:2"),  # adversarial
        question_of("nothing", 3),
        question_of("wind", 4, "D99:1"),
    ],
}


def embed(texts: list[str]) -> NDArray[np.float32]:
    """A bag of words; never all zeros."""
    vectors = np.full((len(texts), 32), 0.01, np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row, zlib.crc32(word.encode()) % 32] += 1
    return vectors


@pytest.fixture
def conversations(tmp_path: Path) -> list[memory.Conversation]:
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([SAMPLE]))
    return memory.read(path)


def test_turns_are_in_the_order_of_their_sessions(conversations: list[memory.Conversation]) -> None:
    (conversation,) = conversations
    assert [turn.id for turn in conversation.turns] == [
        *(f"D1:{number}" for number in range(1, 8)),
        *("D2:1", "D2:2", "D2:3", "D10:1", "D10:2"),
    ]
    assert conversation.turns[8].content == "Ann: a ketch, painted green"


def test_only_questions_with_evidence_in_the_conversation_count(conversations: list[memory.Conversation]) -> None:
    (conversation,) = conversations
    assert [(question.text, question.evidence) for question in conversation.questions] == [
        ("harbour?", {"D10:2", "D2:2"}),
        ("boat", {"D2:2"}),
        ("lantern", {"D1:7"}),
        ("wind", {"D10:1"}),
    ]
    assert conversation.left_out == 3


def test_a_picture_is_read_by_its_caption(tmp_path: Path) -> None:
    turn = {"speaker": "Ann", "dia_id": "D1:1", "text": " look ", "blip_caption": "a photo of a ketch"}
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"conversation": {"session_1": [turn]}, "qa": []}))
    assert [one.turns[0].content for one in memory.read(path)] == ["Ann: look [a photo of a ketch]"]
    assert [one.turns[0].content for one in memory.read(path, captions=False)] == ["Ann: look"]


def test_joined_turns_stay_within_their_session(conversations: list[memory.Conversation]) -> None:
    turns = conversations[0].turns[-3:]
    assert memory.joined(turns, 1) == [turn.content for turn in turns]
    assert memory.joined(turns, 3) == [
        "Ben: lovely",
        "Ben: no wind at all",
        "Ben: no wind at all\nAnn: so the harbour stayed quiet",
    ]


def test_recall_is_the_share_of_the_evidence_among_the_best(conversations: list[memory.Conversation]) -> None:
    report = memory.measure_arrangements(conversations, embed)
    assert (report.conversations, report.turns, report.questions, report.left_out) == (1, 12, 4, 3)
    assert report.failures == []
    words = report.recall["keywords on the turn"]
    assert words.shares == {5: [0.5, 0.0, 0.0, 1.0], 10: [0.5, 0.0, 1.0, 1.0]}
    assert words.mean(10) == pytest.approx(0.625)
    assert [words.mean(5, category) for category in (1, 2, 3, 4)] == [0.5, 0.0, 1.0, 0.0]
    assert words.margin(10) == pytest.approx(1.96 * 0.47871 / 2, rel=1e-4)
    assert report.recall["keywords on two turns"].shares[10] == [0.5, 1.0, 1.0, 1.0]


def test_the_service_is_measured_too(conversations: list[memory.Conversation]) -> None:
    report = memory.measure(conversations, embed)
    assert report.failures == []
    assert report.recall[memory.SERVICE].categories == [1, 4, 2, 3]
    assert report.recall[memory.SERVICE].shares[10][1] == 1.0


def test_a_malformed_answer_is_reported() -> None:
    results = [(["D1:1"], 0.5), (["D1:1"], 0.7)]
    conversation = memory.Conversation("c", [], [memory.Question("q", frozenset({"D1:1"}), 4)], 0)
    report = memory.Report()
    memory.ask(conversation, "a way", lambda question, limit: results, report)
    assert report.failures == ["c: a way: scores out of order for 'q'", "c: a way: a turn is given twice for 'q'"]
