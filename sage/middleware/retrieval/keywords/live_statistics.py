"""Statistics of the live documents of a segment, cached with it until one of them is deleted."""

from __future__ import annotations

import numpy as np

from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask, Postings
from sage.middleware.retrieval.keywords.vocabulary import encode

_CACHED_WORDS = 2**14


class LiveStatistics:
    """Of one segment with one mask of its live documents (``None`` means all)."""

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
        count = self._df.get(term)
        if count is None:
            if len(self._df) >= _CACHED_WORDS:
                self._df.clear()
            count = self._df[term] = int(np.count_nonzero(self.live[postings.postings(term)[0]]))
        return count


def live_statistics(postings: Postings, live: Mask | None) -> LiveStatistics:
    """Those of ``postings``, from its cache if it has the same mask: masks are never changed, only replaced."""
    if not isinstance(postings, KeywordIndex):
        return LiveStatistics(postings, live)
    cached = postings.live_statistics
    if isinstance(cached, LiveStatistics) and cached.live is live:
        return cached
    statistics = LiveStatistics(postings, live)
    postings.live_statistics = statistics
    return statistics
