"""Batches of texts of similar length, so that there is little padding, for models on onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_BATCH = 8
_BATCH_TOKENS = 384
"""With the padding. More at once is no faster on one core, and takes more memory: 200 kB a token."""
_LITTLE_PADDING = 8  # tokens; so much does not matter


def token_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The indices of texts of so many tokens, batch by batch. A text that is longer than a batch is one alone."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        if batch and (
            len(batch) == _BATCH
            or (len(batch) + 1) * length > _BATCH_TOKENS
            or length > 2 * lengths[batch[0]] + _LITTLE_PADDING
        ):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
