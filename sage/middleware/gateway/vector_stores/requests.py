"""The bodies of vector stores in OpenAI's shape, checked before anything is looked up.

Source: OpenAI's API reference (vector stores, files and file batches of these), and its SDK's types.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sage.middleware.gateway.collections.requests import ModelName
from sage.middleware.settings.retrieval import MAX_QUERY

AUTO_TOKENS, AUTO_OVERLAP = 200, 22
"""Of a chunk where the caller leaves it to us: what small embedders read completely."""
MAX_BATCH = 2000
_MOST_PAIRS = 16
_MOST_RESULTS = 50
Note = Annotated[str, StringConstraints(max_length=512)]
NoteName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
AttributeName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^$]")]
Attributes = Annotated[dict[AttributeName, bool | int | float | Note], Field(max_length=_MOST_PAIRS)]
StoreMetadata = Annotated[dict[NoteName, Note], Field(max_length=_MOST_PAIRS)]
FileId = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class StoreBody(BaseModel):
    """A body, or a part of one."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ExpiresAfter(StoreBody):
    """Days without use after which a store expires."""

    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class ChunkSizes(StoreBody):
    """Of the chunks of a file, in tokens: about 4.5 characters of English, and 1.5 of Chinese."""

    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if 2 * self.chunk_overlap_tokens > self.max_chunk_size_tokens:
            raise ValueError("chunk_overlap_tokens may be half of max_chunk_size_tokens at most")
        return self


class ChunkingStrategy(StoreBody):
    """How files are cut: ``auto``, or ``static`` with sizes."""

    type: Literal["auto", "static"]
    static: ChunkSizes | None = None

    @model_validator(mode="after")
    def _with_sizes(self) -> Self:
        if (self.type == "static") != (self.static is not None):
            raise ValueError("'static' needs its sizes in 'static', and 'auto' has none")
        return self

    @property
    def sizes(self) -> tuple[int, int]:
        """Tokens of a chunk and of what two neighbours share."""
        if self.static is None:
            return AUTO_TOKENS, AUTO_OVERLAP
        return self.static.max_chunk_size_tokens, self.static.chunk_overlap_tokens


AUTO = ChunkingStrategy(type="auto")


class CreateStore(StoreBody):
    """A new store, and the files that it begins with."""

    name: str | None = Field(None, max_length=256, examples=["Support"])
    description: str | None = Field(None, max_length=512)
    file_ids: list[FileId] | None = Field(None, max_length=MAX_BATCH)
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: ExpiresAfter | None = None
    metadata: StoreMetadata | None = None


class ChangeStore(StoreBody):
    """What is to be changed; what is left out stays. ``expires_after: null`` means that it stays for ever."""

    name: str | None = Field(None, max_length=256)
    expires_after: ExpiresAfter | None = None
    metadata: StoreMetadata | None = None


class AttachFile(StoreBody):
    """A file for a store."""

    file_id: FileId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class AttachBatch(StoreBody):
    """Files for a store: ``file_ids`` that are all treated alike, or ``files`` that each say how."""

    file_ids: list[FileId] | None = Field(None, min_length=1, max_length=MAX_BATCH)
    files: list[AttachFile] | None = Field(None, min_length=1, max_length=MAX_BATCH)
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("give either 'file_ids' or 'files'")
        return self

    @property
    def entries(self) -> list[AttachFile]:
        """Every file with what counts for it."""
        if self.files is not None:
            return self.files
        return [
            AttachFile(file_id=file_id, attributes=self.attributes, chunking_strategy=self.chunking_strategy)
            for file_id in self.file_ids or ()
        ]


class ChangeFile(StoreBody):
    """The attributes that a file has from now on; null means none."""

    attributes: Attributes | None


class HybridWeights(StoreBody):
    """How much meaning counts against words."""

    embedding_weight: float = Field(ge=0)
    text_weight: float = Field(ge=0)

    @property
    def alpha(self) -> float | None:
        total = self.embedding_weight + self.text_weight
        return self.embedding_weight / total if total else None


class RankingOptions(StoreBody):
    """``ranker``: ``auto`` and ``none`` are the order of the search itself; a model's name has that model put the best
    candidates in order."""

    ranker: ModelName | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)
    hybrid_search: HybridWeights | None = None

    @property
    def reranker(self) -> str | None:
        """The model that orders, if one is named."""
        is_own = self.ranker is None or self.ranker in ("auto", "none") or self.ranker.startswith("default-")
        return None if is_own else self.ranker


class SearchOptions(StoreBody):
    """How a store is searched."""

    filters: dict[str, Any] | None = Field(None, examples=[{"type": "eq", "key": "lang", "value": "en"}])
    max_num_results: int = Field(10, ge=1, le=_MOST_RESULTS)
    ranking_options: RankingOptions | None = None


Query = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY)]


class SearchStore(SearchOptions):
    """A question, or several whose results are one list. ``rewrite_query``: the model `retrieval.rewrite_model` makes
    a query of each first; where that is not set they stay as they are."""

    query: Query | Annotated[list[Query], Field(min_length=1, max_length=16)]
    rewrite_query: bool = False

    @property
    def queries(self) -> list[str]:
        return [self.query] if isinstance(self.query, str) else self.query
