"""What the live documents of a segment add up to, remembered with the segment as long as nothing of it is deleted."""

from __future__ import annotations

import numpy as np

from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask, Postings
from sage.middleware.retrieval.keywords.vocabulary import encode

_REMEMBERED = 2**14


class LiveStatistics:
    """Of one segment with one mask of live documents (``None``: all)."""

    def __init__(self, postings: Postings, live: Mask | None) -> None:
        self.live = live
        self.documents = postings.size if live is None else int(np.count_nonzero(live))
        if live is not None:
            self.length = int(postings.lengths[live].sum(dtype=np.int64))
        else:
            self.length = int(postings.lengths.sum(dtype=np.int64))
        self._df: dict[str, int] = {}

    def df(self, postings: Postings, term: str) -> int:
        """How many live documents hold ``term``."""
        if self.live is None:
            if isinstance(postings, KeywordIndex):
                start, end = postings.locate(encode(term))
                return end - start
            return len(postings.postings(term)[0])
        found = self._df.get(term)
        if found is None:
            if len(self._df) >= _REMEMBERED:
                self._df.clear()
            found = self._df[term] = int(np.count_nonzero(self.live[postings.postings(term)[0]]))
        return found


def live_statistics(postings: Postings, live: Mask | None) -> LiveStatistics:
    """Masks are never changed, only replaced: the same mask is the same state."""
    if not isinstance(postings, KeywordIndex):
        return LiveStatistics(postings, live)
    known = postings.live_statistics
    if isinstance(known, LiveStatistics) and known.live is live:
        return known
    found = LiveStatistics(postings, live)
    postings.live_statistics = found
    return found
