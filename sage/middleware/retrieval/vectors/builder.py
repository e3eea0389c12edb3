"""How the index of each kind is built from vectors. The same vectors make the same index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sage.middleware.retrieval.vectors.coded import Coded, Residuals
from sage.middleware.retrieval.vectors.exact import Matrix
from sage.middleware.retrieval.vectors.faiss_index import add_vectors, faiss_metric, sample, serialized, slices
from sage.middleware.retrieval.vectors.flat import Flat
from sage.middleware.retrieval.vectors.scan import DEPTHS
from sage.middleware.retrieval.vectors.staged import ProbeSetting, Staged
from sage.middleware.retrieval.vectors.trial import Trial
from sage.middleware.settings.retrieval import Metric

_TRAINING = 20_000  # vectors that the ranges of SQ8 and the centre of RaBitQ are taken from
_CANDIDATES = (
    (350, 500, 750, 1000, 2000),
    (500, 700, 1000, 1400, 2000, 3000, 5000),
    (800, 1000, 1400, 2000, 3000, 5000),
)
"""To try, for each depth."""
_SHARES = (0.05, 0.07, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)  # of the lists, to try


class Builder:
    """Builds indexes of some vectors, which float32 can compare, and measures what they find."""

    def __init__(
        self, vectors: Matrix, metric: Metric, target_recall: float, checkpoint: Callable[[], None] = lambda: None
    ) -> None:
        """``checkpoint`` is called now and then and may raise."""
        self._vectors = vectors
        self._metric = metric
        self._target_recall = target_recall
        self._checkpoint = checkpoint

    @cached_property
    def _trial(self) -> Trial:
        return Trial.of(self._vectors, self._metric, self._target_recall, self._checkpoint)

    def flat(self) -> Flat:
        return Flat.of(np.array(self._vectors, np.float32), self._metric)

    @cached_property
    def codes(self) -> Coded | None:
        """The smaller ones of ``sq8`` and ``bf16`` that find enough; ``None`` means that neither does."""
        import faiss

        for kind, coding in (("sq8", faiss.ScalarQuantizer.QT_8bit), ("bf16", faiss.ScalarQuantizer.QT_bf16)):
            index = faiss.IndexScalarQuantizer(self._vectors.shape[1], coding, faiss_metric(self._metric))
            index.train(sample(self._vectors, self._metric, _TRAINING))
            add_vectors(index, self._vectors, self._metric, self._checkpoint)
            codes = Coded(serialized(index), self._metric, kind, self._residuals(index))
            if self._trial.passed(codes):
                return codes
        return None

    def _residuals(self, index: Any) -> Residuals:
        residuals = np.empty(len(self._vectors))
        for start, some in slices(self._vectors, self._metric):
            self._checkpoint()
            apart = some - index.reconstruct_n(start, len(some))
            residuals[start : start + len(some)] = np.sqrt(np.vecdot(apart, apart))
        return Residuals.rounded_up(residuals * (1 + 1e-6))

    def staged(self, kind: type[Staged]) -> Staged | None:
        """``None`` means that it does not find enough, however widely it searches."""
        codes = self.codes
        if codes is None:
            return None
        base = kind.first_stage(self._vectors, self._metric)
        base.train(sample(self._vectors, self._metric, _TRAINING))
        add_vectors(base, self._vectors, self._metric, self._checkpoint)
        blob = serialized(base)
        settings: list[ProbeSetting] = []
        for depth, candidates in zip(DEPTHS, _CANDIDATES, strict=True):

            def recall(setting: ProbeSetting, depth: int = depth) -> float:
                return self._trial.recall(kind(blob, codes, [setting] * len(DEPTHS)), depth)

            setting = _narrowest(recall, self._target_recall, candidates, kind.lists_in(base))
            if setting is None:
                return None
            settings.append(setting)
        return kind(blob, codes, settings)


def _narrowest(
    recall: Callable[[ProbeSetting], float], target: float, candidates: Sequence[int], lists: int
) -> ProbeSetting | None:
    """The fewest lists that find enough and a little more (a hundred queries measure it to within .005). The number of
    candidates may cost half of the recall that may be lost: another candidate costs 0.3 µs, a list of a thousand
    vectors 12 to 30 µs."""
    wanted = (1 + target) / 2 if lists > 1 else target
    enough = next((count for count in candidates if recall(ProbeSetting(count, lists)) >= wanted), candidates[-1])
    for share in _SHARES if lists > 1 else (1.0,):
        setting = ProbeSetting(enough, max(1, round(share * lists)))
        reached = recall(setting)
        if reached >= (3 * target + 1) / 4 or (setting.probes == lists and reached >= target):
            return setting
    return None
