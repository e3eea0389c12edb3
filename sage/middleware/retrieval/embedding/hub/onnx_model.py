"""A pulled model in memory: its tokenizer, and its graph on onnxruntime, on the thread of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import MissingExtra
from sage.middleware.hub.snapshots import Snapshot
from sage.middleware.retrieval.embedding.hub.recipe import InputRecipe
from sage.middleware.retrieval.embedding.sessions import open_session

_TOKENIZER = "tokenizer.json"
_CHARACTERS_PER_TOKEN = 32
"""Of a text, so many a token are looked at: words have five or six."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class OnnxModel:
    """Raises :class:`ConfigError` for files that onnxruntime or tokenizers cannot read, or that were changed, and
    :class:`MissingExtra`."""

    def __init__(self, snapshot: Snapshot, input: InputRecipe) -> None:
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as exc:
            raise MissingExtra(f"the model '{snapshot.name}'", "embed-hub") from exc
        self._snapshot = snapshot
        self._input = input
        if _TOKENIZER not in snapshot.sums:
            raise snapshot.fault("it has no tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_buffer(snapshot.read(_TOKENIZER))
        except ValueError as exc:
            raise snapshot.fault(f"tokenizer.json is no tokenizer ({_first_line(exc)})") from exc
        self._tokenizer.enable_truncation(input.max_tokens)
        self._tokenizer.no_padding()
        graph = snapshot.checked_graph()
        try:
            self._session = open_session(onnxruntime, str(graph))
        except Exception as exc:  # onnxruntime's errors have no base class of their own
            raise snapshot.fault(f"onnxruntime cannot open {snapshot.graph} ({_first_line(exc)})") from exc
        self._inputs = frozenset(each.name for each in self._session.get_inputs())
        unknown = sorted(self._inputs - {"input_ids", "attention_mask", "token_type_ids", "position_ids"})
        if unknown or "input_ids" not in self._inputs:
            raise snapshot.fault(f"its graph wants {', '.join(unknown) or 'no input_ids'}, which is not supported")
        self.outputs = tuple(each.name for each in self._session.get_outputs())

    def encode(self, text: str, pair: str | None = None) -> Any:
        """The tokens of a text, or of two with a mark between them; what is beyond the model's length is left out."""
        most = self._input.max_tokens * _CHARACTERS_PER_TOKEN
        if pair is None:
            return self._tokenizer.encode(self._clean(text, most))
        return self._tokenizer.encode(self._clean(text, most), self._clean(pair, most))

    def run(self, encodings: Sequence[Any], output: str) -> tuple[Floats, Ints]:
        """The output of that name, and the mask ``(texts, tokens)`` of the tokens that are not padding."""
        longest = max(len(encoding.ids) for encoding in encodings)
        shape = (len(encodings), longest)
        ids = np.full(shape, self._input.padding, np.int64)
        mask, kinds = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            ids[row, :length], kinds[row, :length], mask[row, :length] = encoding.ids, encoding.type_ids, 1
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds, "position_ids": positions}
        try:
            (values,) = self._session.run([output], {name: feed[name] for name in self._inputs})
        except Exception as exc:
            raise self._snapshot.fault(f"onnxruntime cannot run it ({_first_line(exc)})") from exc
        return np.asarray(values, np.float32), mask

    def _clean(self, text: str, most: int) -> str:
        text = text[:most].replace("\x00", " ")
        return text.lower() if self._input.lower_case else text


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
