"""Settings of retrieval: the defaults of new collections, and limits on requests."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from sage.middleware.settings.providers import SettingsSection
from sage.middleware.settings.quantities import Size, Text

MAX_QUERY = 16_384
"""Characters of a query."""


class Metric(StrEnum):
    """How near two vectors are. A higher score is always nearer: Euclidean scores are negative distances."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLIDEAN = "euclidean"


class Variant(StrEnum):
    """Which variant of BM25; the formulas are in :mod:`sage.middleware.retrieval.keywords.bm25`."""

    LUCENE = "lucene"
    OKAPI = "okapi"
    PLUS = "plus"
    L = "l"


class KeywordOptions(SettingsSection):
    """How words are scored."""

    variant: Variant = Variant.LUCENE
    k1: float = Field(1.5, ge=0, le=100)
    b: float = Field(0.75, ge=0, le=1)
    epsilon: float = Field(0.25, ge=0, le=100)
    """Of ``okapi``: the share of the average idf that words in more than half of the documents get."""
    delta: float | None = Field(None, ge=0, le=100)
    """Of ``plus`` and ``l``; ``None`` means 1 and 0.5."""
    engine: Literal["arrays", "rank-bm25"] = "arrays"


class AnalysisOptions(SettingsSection):
    """How text becomes terms, the same for documents and queries."""

    stem: bool = True
    """Reduce English words to their stems (Snowball)."""
    stop_words: bool = True
    """Leave words such as "the" out of a query that has others."""
    chinese: Literal["bigrams", "rjieba"] = "bigrams"
    """``bigrams``: single characters and pairs; ``rjieba``: words of a dictionary (extra 'chinese')."""
    script: Literal["as-is", "simplified"] = "as-is"
    """``simplified``: traditional characters count as their simplified ones (extra 'chinese')."""


class CollectionOptions(SettingsSection):
    """The options with which a collection is made. It keeps them."""

    embedder: Text = "auto"
    """A name of :mod:`sage.middleware.retrieval.embedding.builtin` (``auto``, ``none``, ``local``,
    ``local-multilingual``), ``provider/model``, a model's name, or one of a hub (``hf:ORG/MODEL``)."""
    dimension: int | None = Field(None, ge=1, le=65536)
    """Of its vectors; ``None`` means the embedder's, or that of the first vector."""
    metric: Metric = Metric.COSINE
    target_recall: float = Field(0.98, gt=0, le=1)
    """The share of the true nearest neighbours that a search among many must find."""
    vectors: Literal["stored", "mapped"] = "stored"
    """From where the exact vectors of candidates are read: ``stored``, from the database; ``mapped``, from a file of
    the index that is mapped into memory. That is faster and takes the vectors' size on disk once more."""
    keywords: KeywordOptions = Field(default_factory=KeywordOptions)
    analysis: AnalysisOptions = Field(default_factory=AnalysisOptions)


class RetrievalLimits(SettingsSection):
    """Limits on one request."""

    max_documents: int = Field(10_000, ge=1)
    """In one request."""
    max_text: Size = 2**20
    """Bytes of one document's text."""
    max_metadata: Size = 64 * 2**10
    """Bytes of one document's metadata as JSON."""
    max_dimension: int = Field(8192, ge=1)
    max_results: int = Field(10_000, ge=1)
    """``offset`` and ``top_k`` together."""
    max_answer: Size = 64 * 2**20
    """Bytes of text and metadata in the answer to one request."""
    max_searches: int = Field(100, ge=1)
    """In one batch."""
    max_collections: int = Field(1000, ge=1)
    """Of one tenant."""
    max_store_files: int = Field(10_000, ge=1)
    """Of one vector store."""
    max_shards: int = Field(64, ge=1, le=1024)
    """Over which a request may spread a new collection."""
    max_snapshot: Size = 64 * 2**30
    """Bytes of a snapshot that is restored; ``api.max_body_bytes`` does not apply to it."""


class Retrieval(SettingsSection):
    """Collections and search."""

    defaults: CollectionOptions = Field(default_factory=CollectionOptions)
    """The options of a new collection that the request leaves out."""
    shards: int = Field(0, ge=0, le=1024)
    """Over how many shards a new collection is spread where the request says nothing; 0 means one store. Shards run as
    ``services.runtime`` says."""
    source_tokens: int = Field(2000, ge=100)
    """How much of a model's context the sources of one answer may take, in tokens."""
    rewrite_model: Text | None = None
    """The model that makes queries of questions where a search of a vector store asks for it (``rewrite_query``);
    ``None`` means that they stay as they are."""
    limits: RetrievalLimits = Field(default_factory=RetrievalLimits)
