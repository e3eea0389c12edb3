"""What else than its own words and meaning speaks for a turn: the turn after it, its session, and who said it.

The weights of session and speaker were found on all ten conversations of LoCoMo, that of the next turn on one of them
(benchmarks/README.md says what each is worth).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.service.memory_orchestrator.context.speakers import FIELDS, named_speaker, speaker_of

_WEIGHTS = {"next_turn": 0.3, "session": 0.2, "speaker": 0.15}
"""Against 1 for the score of the search itself."""
_TOTAL = 1.0 + sum(_WEIGHTS.values())

Hit = dict[str, Any]


def by_context(hits: Sequence[Hit], question: str, limit: int) -> list[Hit]:
    """The best ``limit`` of the hits of a search by words, best first, each with its new ``score``, 0 to 1, and its
    ``context``: what each bonus is, 0 to 1, by name. Hits without scores by words stay as they are: theirs are those of
    a metric."""
    keywords = [hit["scores"].get("bm25") or 0.0 for hit in hits]
    best = max(keywords, default=0.0)
    if best <= 0.0:
        return list(hits[:limit])
    scale = best if all(hit["scores"].get("dense") is None for hit in hits) else 1.0  # by words alone: not yet 0 to 1
    share_of = {hit["id"]: max(0.0, score) / best for hit, score in zip(hits, keywords, strict=True)}
    followed = {_turn_before(hit): share_of[hit["id"]] for hit in hits}
    speakers = [speaker_of(_callers_metadata(hit)) for hit in hits]
    named = named_speaker(question, [speaker for speaker in speakers if speaker is not None])
    bonuses = [
        {
            "next_turn": followed.get(hit["id"], 0.0),
            "session": hit["scores"].get("group") or 0.0,
            "speaker": float(named is not None and speaker == named),
        }
        for hit, speaker in zip(hits, speakers, strict=True)
    ]
    scores = [
        (hit["score"] / scale + sum(_WEIGHTS[name] * bonus for name, bonus in of_hit.items())) / _TOTAL
        for hit, of_hit in zip(hits, bonuses, strict=True)
    ]
    order = sorted(range(len(hits)), key=lambda index: -scores[index])[:limit]
    return [
        {**hits[index], "score": scores[index], "search": hits[index]["score"], "context": bonuses[index]}
        for index in order
    ]


def _turn_before(hit: Hit) -> str | None:
    """The id of the turn that came before it in its session."""
    context = hit["metadata"].get("context")
    return context[-1] if context else None


def _callers_metadata(hit: Hit) -> dict[str, Any]:
    """What of the caller's metadata says who spoke, without parsing all of it."""
    return {field: hit["metadata"].get(f"meta.{field}") for field in FIELDS}
