"""The fields of searches and of the sources of an answer: checked before anything is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sage.errors import InvalidRequest
from sage.middleware.providers.base import MAX_NAME
from sage.middleware.settings.first_fault import first_fault
from sage.middleware.settings.quantities import nearest
from sage.middleware.settings.retrieval import MAX_QUERY, RetrievalLimits

if TYPE_CHECKING:  # they bring numpy, which a gateway without searches does not load
    from sage.middleware.retrieval.types.search import Search

Body = TypeVar("Body", bound=BaseModel)
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
_DEPTH = 50


class RerankOptions(BaseModel):
    """A model that puts the best ``depth`` candidates in order."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: ModelName
    depth: int = Field(_DEPTH, ge=1, le=1000)


def vector_schema(schema: dict[str, Any]) -> None:
    """Says in the JSON ``schema`` of a vector that it is not empty, and its numbers are of 32 bits."""
    for kind in schema.get("anyOf", ()):
        if kind.get("type") == "array":
            kind["minItems"] = 1
            kind["items"] = {"type": "number", "minimum": -3.4e38, "maximum": 3.4e38}


def _named(value: Any) -> Any:
    """The options in ``value``, which may be the name of a model alone."""
    if not isinstance(value, str | dict | RerankOptions | None):
        raise ValueError("must be a model's name, or {model, depth}")
    return {"model": value} if isinstance(value, str) else value


Reranking = Annotated[RerankOptions, BeforeValidator(_named, json_schema_input_type=ModelName | RerankOptions)]


class SearchFields(BaseModel):
    """What every search may say."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    collection: str = Field("default", examples=["default"])
    top_k: int = Field(10, ge=1, examples=[3], description="How many results.")
    mode: Literal["hybrid", "dense", "bm25"] = Field("hybrid", description="By meaning, by words, or by both.")
    syntax: Literal["auto", "query", "plain"] = Field(
        "auto",
        description='Whether `"phrases"`, `+must` and `-not` are signs: `query` means always, `plain` never, `auto` '
        "where they are meant, and never in a sentence.",
    )
    filter: dict[str, Any] | None = Field(
        None, description='On metadata: `{"lang": "zh", "year": {"$gte": 2020}, "$or": [{…}], "$not": {…}}`.'
    )
    fusion: Literal["minmax", "rrf", "dbsf", "zscore"] = Field(
        "minmax", description="How the two orders of a hybrid search become one."
    )
    alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The weight of meaning against words; null means 0.5, or less where a query calls for it.",
    )
    rerank: Reranking | None = Field(
        None, description="A model that puts the best candidates in order, or `{model, depth}`."
    )
    exact: bool = Field(False, description="Compare vectors one by one.")
    score_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The least relevance of a result, which is made of meaning and matched words and comparable "
        "between queries: 0 means nothing in common. Results then have `scores.relevance`.",
    )


_QUERY_OR_VECTOR: dict[str, Any] = {
    "anyOf": [
        {"required": ["query"], "properties": {"query": {"minLength": 1}}},
        {"required": ["vector"], "properties": {"vector": {"type": "array"}}},
    ]
}


class SearchRequest(SearchFields):
    """A query for a collection."""

    model_config = ConfigDict(json_schema_extra=_QUERY_OR_VECTOR)

    query: str = Field("", max_length=MAX_QUERY, examples=["document"])
    vector: list[float] | None = Field(
        None, description="In place of the query's own embedding.", json_schema_extra=vector_schema
    )
    offset: int = Field(0, ge=0, description="How many results to pass over, for pages.")
    explain: bool = Field(False, description="Say how each score came about.")
    highlight: bool = Field(False, description="Passages of each text with `<em>` around what matched.")

    def search(self, limits: RetrievalLimits) -> Search:
        """The search of the collection. Raises :class:`InvalidRequest` for a bad vector."""
        from sage.middleware.retrieval.text.query_syntax import Syntax
        from sage.middleware.retrieval.types.documents import check_vector
        from sage.middleware.retrieval.types.search import Fusion, Mode, Search

        return Search(
            query=self.query,
            vector=check_vector(self.vector, "search", limits, param="vector"),
            syntax=Syntax(self.syntax),
            mode=Mode(self.mode),
            top_k=self.top_k,
            offset=self.offset,
            filter=self.filter,
            fusion=Fusion(self.fusion),
            alpha=self.alpha,
            exact=self.exact,
            rerank=self.rerank.model if self.rerank is not None else None,
            rerank_depth=self.rerank.depth if self.rerank is not None else _DEPTH,
            explain=self.explain,
            highlight=self.highlight,
            score_threshold=self.score_threshold,
        )


class SourcesRequest(SearchFields):
    """Where an answer's sources are looked for; the query is the last message of the user unless it is given."""

    top_k: int = Field(5, ge=1, le=50, description="How many sources at most.")
    query: str | None = Field(None, min_length=1, max_length=MAX_QUERY)
    syntax: Literal["auto", "query", "plain"] | None = Field(  # type: ignore[assignment]
        None, description="As in a search; null means `auto` for a `query`, and `plain` for the message."
    )

    def check_filter(self) -> None:
        """Raises :class:`InvalidRequest` for a filter that no search takes."""
        if self.filter is not None:
            from sage.middleware.retrieval.filters.language import parse_filter

            parse_filter(self.filter)

    def request_for(self, query: str) -> SearchRequest:
        """The search for ``query``."""
        fields = {name: getattr(self, name) for name in SearchFields.model_fields}
        fields["syntax"] = self.syntax or ("plain" if self.query is None else "auto")
        return SearchRequest.model_construct(**fields, query=query)


def parse_search(value: Any, parent: str = "") -> SearchRequest:
    """A search of a request; ``parent`` is its path in the request, such as ``searches[1]``."""
    search = parse(SearchRequest, value, parent)
    if not search.query and search.vector is None:
        raise InvalidRequest("give a 'query', or a 'vector'", param=_path(parent, "query"))
    return search


def parse(kind: type[Body], value: Any, parent: str = "") -> Body:
    """``value`` as ``kind``; raises :class:`InvalidRequest` that names the first field at fault."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"'{parent}' must be an object", param=parent or None)
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        fault, place, message = first_fault(exc, kind.model_validate, value)
    path = _path(parent, ".".join(map(str, place)))
    if fault == "extra_forbidden":
        name = str(place[-1])
        model = RerankOptions if len(place) > 1 else kind
        raise InvalidRequest(f"unknown field '{path}'; {nearest(name, list(model.model_fields))}", param=path)
    raise InvalidRequest(f"'{path}': {message}" if path else message, param=path or None)


def _path(parent: str, field: str) -> str:
    return f"{parent}.{field}" if parent and field else parent or field
