"""Building the terms of a filter index: from the values of documents, or by merging indexes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.language import Leaves
from sage.middleware.retrieval.filters.terms import TYPES, TermDocuments, Terms, Values, type_of
from sage.middleware.retrieval.keywords.vocabulary import widths

Numbers = NDArray[np.int64]
_Section = tuple[str, int]
"""A path and the place of a type in :data:`TYPES`: tuples sort as sections do."""


@dataclass(frozen=True, slots=True)
class Source:
    """One of several indexes to merge."""

    terms: Terms
    documents: TermDocuments
    ordinals: Numbers
    """Of each of its documents the ordinal in the merged index; -1 leaves it out."""


@dataclass(frozen=True, slots=True)
class _Share:
    """What one source has of a section."""

    source: int
    terms: Numbers
    """Those of its terms that a document of the merged index has."""
    values: Values
    """Of these terms."""


class _TermsBuilder:
    """Takes the sections in their order."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Values]] = {}
        self.count = 0
        """The terms so far."""

    def add(self, section: _Section, values: Values) -> None:
        """``values`` are in order, and at least one; texts as UTF-8."""
        path, kind = section
        self._values.setdefault(path, {})[TYPES[kind]] = values
        self.count += len(values)

    def build(self) -> Terms:
        by_path = list(self._values.values())
        sizes = [len(values.get(kind, ())) for values in by_path for kind in TYPES]
        numbers = [np.asarray(values.get("number", ()), np.float64) for values in by_path]
        scalars = [value for values in by_path for kind in ("bool", "big") for value in values.get(kind, ())]
        texts: list[bytes] = [text for values in by_path for text in values.get("text", ())]
        return Terms(
            list(self._values),
            np.cumsum([0, *sizes], dtype=np.int64),
            np.concatenate([np.empty(0), *numbers]),
            scalars,
            np.frombuffer(b"".join(texts), np.uint8),
            np.cumsum([len(text) for text in texts], dtype=np.int64),
        )


def build_terms(documents: Iterable[tuple[int, Leaves]]) -> tuple[Terms, TermDocuments]:
    """The terms of some documents. Each comes with its ordinal, ascending."""
    ordinals_of: defaultdict[_Section, defaultdict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
    for ordinal, leaves in documents:
        for path, values in leaves.items():
            for value in values:
                kind = type_of(value)
                key = value.encode() if kind == "text" else None if kind == "present" else value
                ordinals = ordinals_of[path, TYPES.index(kind)][key]
                if not ordinals or ordinals[-1] != ordinal:
                    ordinals.append(ordinal)
    builder = _TermsBuilder()
    lists: list[list[int]] = []
    for section in sorted(ordinals_of):
        by_value = ordinals_of[section]
        values = sorted(by_value) if len(by_value) > 1 else list(by_value)  # None cannot be compared, and is alone
        builder.add(section, values)
        lists += [by_value[value] for value in values]
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    ordinals_in_order = np.fromiter((ordinal for each in lists for ordinal in each), np.uint32, int(counts.sum()))
    return builder.build(), TermDocuments.of_counts(counts, ordinals_in_order)


def merge_terms(sources: Sequence[Source]) -> tuple[Terms, TermDocuments]:
    """One index of several. Their documents follow each other in the order of ``sources``."""
    entries = [_remaining_entries(source) for source in sources]
    in_use = [
        np.bincount(terms, minlength=len(source.documents.starts) - 1) > 0
        for source, (terms, _) in zip(sources, entries, strict=True)
    ]
    new_numbers = [np.full(len(used), -1, np.int64) for used in in_use]
    builder = _TermsBuilder()
    for section, shares in sorted(_shares_by_section(sources, in_use).items()):
        values, offsets = _union(TYPES[section[1]], [share.values for share in shares])
        for share, offsets_of_share in zip(shares, offsets, strict=True):
            new_numbers[share.source][share.terms] = builder.count + offsets_of_share
        builder.add(section, values)
    terms = _concatenated([new[old] for new, (old, _) in zip(new_numbers, entries, strict=True)])
    ordinals = _concatenated([ordinals for _, ordinals in entries])
    order = np.argsort(terms, kind="stable")  # within one term, ordinals stay ascending
    counts = np.bincount(terms, minlength=builder.count)
    return builder.build(), TermDocuments.of_counts(counts, ordinals[order].astype(np.uint32))


def _concatenated(arrays: Sequence[Numbers]) -> Numbers:
    return np.concatenate([np.empty(0, np.int64), *arrays])


def _remaining_entries(source: Source) -> tuple[Numbers, Numbers]:
    """``(terms, new ordinals)``, one entry for each term of each document that is not left out."""
    sizes = widths(source.documents.starts)
    terms = np.repeat(np.arange(len(sizes)), sizes)
    ordinals = source.ordinals[source.documents.ordinals]
    remaining = ordinals >= 0
    return terms[remaining], ordinals[remaining]


def _shares_by_section(sources: Sequence[Source], in_use: Sequence[NDArray[np.bool_]]) -> dict[_Section, list[_Share]]:
    shares: defaultdict[_Section, list[_Share]] = defaultdict(list)
    for number, (source, used) in enumerate(zip(sources, in_use, strict=True)):
        for path, kind, (start, end) in source.terms.sections():
            offsets = np.flatnonzero(used[start:end])
            if offsets.size:
                values = _take(source.terms.values(path, kind), offsets)
                shares[path, TYPES.index(kind)].append(_Share(number, start + offsets, values))
    return shares


def _take(values: Values, offsets: Numbers) -> Values:
    return values[offsets] if isinstance(values, np.ndarray) else [values[offset] for offset in offsets.tolist()]


def _union(kind: str, columns: Sequence[Values]) -> tuple[Values, list[Numbers]]:
    """All values in order, each once; and of each column the offsets of its values among them."""
    if kind == "number":
        values, offsets = np.unique(np.concatenate(columns), return_inverse=True)
        return values, np.split(offsets, np.cumsum([len(column) for column in columns])[:-1])
    if kind in ("null", "present"):
        return [None], [np.zeros(1, np.int64) for _ in columns]
    ordered = sorted({value for column in columns for value in column})
    offset_of = {value: offset for offset, value in enumerate(ordered)}
    return ordered, [np.array([offset_of[value] for value in column], np.int64) for column in columns]
