"""Which files of a hub's repository make a model in ONNX's format: one graph, and what says how it is used.

They are the files that sentence-transformers reads (https://sbert.net/docs/sentence_transformer/usage/efficiency.html).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sage.errors import InvalidRequest, NotFound
from sage.middleware.hub.sources import HubSource, RepoFile, is_safe

_PREFERRED = ("onnx/model.onnx", "model.onnx", "onnx/model_quantized.onnx")
_ABOUT = re.compile(
    r"config\.json|modules\.json|config_sentence_transformers\.json|sentence_bert_config\.json|"
    r"tokenizer\.json|tokenizer_config\.json|\d+_[A-Za-z]+/config\.json"
)
_LARGEST_TEXT = 64 * 2**20
"""Bytes of one of the files that are read as JSON. The largest tokenizers have some 20 MB."""
_LARGEST_GRAPH = 8 * 2**30
_LISTED = 20


@dataclass(frozen=True, slots=True)
class OnnxChoice:
    """``graph`` is the path of the model's graph, one of ``files``."""

    graph: str
    files: tuple[RepoFile, ...]


def has_onnx(source: HubSource, files: Sequence[RepoFile]) -> bool:
    """Whether ``source`` is rather a model in ONNX's format than one in another."""
    if source.file is not None:
        return source.file.endswith(".onnx")
    names = [file.path.lower() for file in files]
    return any(name.endswith(".onnx") for name in names) and not any(name.endswith(".gguf") for name in names)


def choose_onnx(source: HubSource, files: Sequence[RepoFile]) -> OnnxChoice:
    """The graph that ``source`` names, or ``onnx/model.onnx``, with its weights and the files about it.

    Raises :class:`NotFound` where there is no such graph, and :class:`InvalidRequest` if several could be meant.
    """
    listed = {file.path: file for file in files if is_safe(file.path)}
    graph = _graph(source, listed)
    weights = re.compile(re.escape(graph) + r"[._]data(?:_\d+)?")
    wanted = [path for path in listed if path == graph or weights.fullmatch(path) or _ABOUT.fullmatch(path)]
    return OnnxChoice(graph, tuple(listed[path] for path in sorted(wanted)))


def check_sizes(source: HubSource, choice: OnnxChoice) -> None:
    """Raises :class:`InvalidRequest` for files that are larger than such files are, or of sizes that nobody tells."""
    for file in choice.files:
        largest = _LARGEST_TEXT if file.path.endswith(".json") else _LARGEST_GRAPH
        if file.size is None or file.size > largest:
            size = "a size that the hub does not tell" if file.size is None else f"{file.size} bytes"
            raise InvalidRequest(
                f"'{file.path}' of {source.hub}:{source.repo} has {size}; {largest} bytes are the most that are "
                "fetched of such a file",
                param="name",
                code="model_too_large",
            )


def _graph(source: HubSource, listed: dict[str, RepoFile]) -> str:
    graphs = sorted(path for path in listed if path.endswith(".onnx"))
    if source.file is not None and source.file in graphs:
        return source.file
    shown = ", ".join(graphs[:_LISTED]) or "none"
    if source.file is not None or not graphs:
        wanted = f"no file '{source.file}'" if source.file is not None else "no model in ONNX's format"
        raise NotFound(
            f"{source.hub}:{source.repo} has {wanted}; its ONNX files: {shown}", param="name", code="no_onnx"
        )
    if len(graphs) == 1:
        return graphs[0]
    preferred = [path for path in _PREFERRED if path in graphs]
    if preferred:
        return preferred[0]
    raise InvalidRequest(
        f"several files of {source.hub}:{source.repo} fit; add one after a colon: {shown}", param="name"
    )
