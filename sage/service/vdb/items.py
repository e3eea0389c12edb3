"""Checks of all arguments of a vector service, before anything is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.retrieval.filters.language import parse_filter
from sage.middleware.retrieval.text.query_syntax import Syntax
from sage.middleware.retrieval.types.documents import (
    NewDocument,
    check_id,
    check_metadata,
    check_text,
    check_vector,
)
from sage.middleware.retrieval.types.search import Fusion, Mode, Search
from sage.middleware.retrieval.updates import Revision
from sage.middleware.settings.retrieval import RetrievalLimits

LIMITS = RetrievalLimits(max_documents=2**31)
"""In Python a request may carry any number of items."""
_COLLECTION = re.compile(r"[^\W_][\w.-]{0,63}")
MAX_NAME = 80
"""Bytes of a tenant's or a collection's name: escaped, three times as many still are a file's name."""
_FIELDS = ("id", "vector", "metadata", "text")
_OPTIONS = (
    "alpha",
    "fusion",
    "syntax",
    "exact",
    "explain",
    "highlight",
    "offset",
    "rerank",
    "rerank_depth",
    "score_threshold",
    "cosine_range",
    "group",
)


def check_names(tenant: Any, collection: Any) -> None:
    """Raises :class:`InvalidRequest`."""
    check_tenant(tenant)
    if not isinstance(collection, str) or not _COLLECTION.fullmatch(collection) or not _fits(collection):
        raise InvalidRequest(
            f"'{str(collection)[:MAX_NAME]}' cannot be a collection's name: letters of any script, digits, '.', '_' "
            f"and '-', the first a letter or digit, up to 64 of them and {MAX_NAME} bytes",
            param="collection",
        )


def check_tenant(tenant: Any) -> None:
    if not isinstance(tenant, str) or not tenant or not _fits(tenant):
        raise InvalidRequest(
            f"'{str(tenant)[:MAX_NAME]}' cannot be a tenant's name: text of 1 to {MAX_NAME} bytes", param="tenant"
        )


def _fits(name: str) -> bool:
    try:
        return len(name.encode()) <= MAX_NAME
    except UnicodeEncodeError:
        return False


def check_items(given: Any) -> list[NewDocument]:
    """The items of one request, all of them good; raises :class:`InvalidRequest` that names the first at fault."""
    if isinstance(given, Mapping | str) or not isinstance(given, Sequence):
        raise InvalidRequest("'items' must be a list of items, such as [{\"vector\": […]}]", param="items")
    checked = [_item(item, f"items[{index}]") for index, item in enumerate(given)]
    ids: set[str] = set()
    for index, item in enumerate(checked):
        if item.id in ids:
            raise InvalidRequest(f"items[{index}]: the id '{item.id}' stands twice in this request", param="items")
        ids.add(item.id)
    return checked


def _item(given: Any, path: str) -> NewDocument:
    if not isinstance(given, Mapping):
        raise InvalidRequest(f'{path} must be an object such as {{"vector": […]}}', param="items")
    for key in given:
        if key not in _FIELDS:
            raise InvalidRequest(
                f"{path}: unknown field '{key}'; an item has {', '.join(_FIELDS)} (fields of your own belong into "
                "metadata)",
                param="items",
            )
    text, vector = given.get("text"), given.get("vector")
    if vector is None and (text is None or (isinstance(text, str) and not text.strip())):
        raise InvalidRequest(f"{path} has neither 'vector' nor 'text'; give at least one", param="items")
    return NewDocument(
        check_id(given.get("id"), path, "items"),
        "" if text is None else check_text(text, path, LIMITS, "items"),
        check_metadata(given.get("metadata"), path, LIMITS, "items"),
        check_vector(vector, path, LIMITS, "items"),
    )


def check_dimensions(items: Sequence[NewDocument], dimension: int) -> None:
    """Raises :class:`InvalidRequest` that names the item, its dimension, and that of the collection."""
    for index, item in enumerate(items):
        if item.vector is not None and item.vector.size != dimension:
            raise InvalidRequest(
                f"items[{index}]: 'vector' has {item.vector.size} dimensions, but the vectors of this collection have "
                f"{dimension}",
                param="items",
                code="wrong_dimension",
            )


def check_revision(vector: Any, metadata: Any, text: Any) -> Revision:
    if vector is None and metadata is None and text is None:
        raise InvalidRequest("nothing to update: give 'vector', 'metadata' or 'text'", param="metadata")
    return Revision(
        None if text is None else check_text(text, "update", LIMITS, "text"),
        None if metadata is None else check_metadata(metadata, "update", LIMITS, "metadata"),
        check_vector(vector, "update", LIMITS, "vector"),
    )


def check_given_id(id: Any) -> str:
    """An id that an item may have. Raises :class:`InvalidRequest`."""
    if id is None:
        raise InvalidRequest("'id' is missing: say which item", param="id")
    return check_id(id, "item", "id")


def check_ids(ids: Any) -> list[str]:
    """The ids, each once. Raises :class:`InvalidRequest`."""
    if isinstance(ids, str) or not isinstance(ids, Sequence) or any(id is None for id in ids):
        raise InvalidRequest("'ids' must be a list of ids", param="ids")
    return list(dict.fromkeys(check_id(id, f"ids[{index}]", "ids") for index, id in enumerate(ids)))


def check_where(where: Mapping[str, Any] | None) -> None:
    """Raises :class:`InvalidRequest`."""
    parse_filter(where, "where")


def check_query(
    vector: Any,
    text: str | None,
    mode: str | None,
    n_results: int,
    where: Any,
    options: Mapping[str, Any] | None,
    *,
    keywords: bool,
) -> Search:
    """The search. Without ``mode``, a vector alone is searched dense; text alone, or both, hybrid (by words where no
    vector can be made of the text). Without ``keywords``, the engine searches by vectors only. Raises
    :class:`InvalidRequest`."""
    if vector is None and text is None:
        raise InvalidRequest("give 'vector', 'text' or both to search for", param="vector")
    if isinstance(n_results, bool) or not isinstance(n_results, int) or not 1 <= n_results <= LIMITS.max_results:
        raise InvalidRequest(f"'n_results' must be a whole number, 1 to {LIMITS.max_results}", param="n_results")
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise InvalidRequest("'text' must be a text that says what to look for", param="text")
    more = dict(options or {})
    for name in more:
        if name not in _OPTIONS:
            near = get_close_matches(str(name), _OPTIONS, 1, 0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(_OPTIONS)}"
            raise InvalidRequest(f"'options' has no '{name}'; {hint}", param="options")
    if "fusion" in more:
        more["fusion"] = _one_of(Fusion, more["fusion"], "options.fusion")
    if "syntax" in more:
        more["syntax"] = _one_of(Syntax, more["syntax"], "options.syntax")
    check_where(where)
    search_mode = (
        (Mode.DENSE if text is None or not keywords else Mode.HYBRID) if mode is None else _one_of(Mode, mode, "mode")
    )
    if search_mode is Mode.BM25 and text is None:
        raise InvalidRequest("mode 'bm25' goes by words: give 'text'", param="text")
    query_vector = check_vector(vector, "search", LIMITS, "vector")
    return Search(query=text or "", vector=query_vector, mode=search_mode, top_k=n_results, filter=where, **more)


def _one_of(kind: type[Any], given: Any, param: str) -> Any:
    try:
        return kind(given)
    except ValueError:
        choices = ", ".join(choice.value for choice in kind)
        raise InvalidRequest(f"'{given}' is no {param}; there are: {choices}", param=param.partition(".")[0]) from None
