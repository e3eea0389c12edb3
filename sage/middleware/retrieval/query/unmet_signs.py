"""A query whose signs leave nothing is asked without them, with a warning: one document is an answer, none is not."""

from __future__ import annotations

from collections.abc import Callable

from sage.errors import InvalidRequest
from sage.middleware.retrieval.query.hybrid import RankedPage
from sage.middleware.retrieval.text.query_syntax import KeywordQuery, Syntax


def page_where_met(
    query: KeywordQuery, syntax: Syntax, page_of: Callable[[KeywordQuery], RankedPage]
) -> tuple[RankedPage, tuple[str, ...]]:
    """The page of ``query``; under ``auto``, where no document meets its signs, that of the query without them, and a
    warning. It is so on every page of an order, since an order without any document has none.

    Raises what ``page_of`` does; under ``auto`` not for a phrase of words that are too common.
    """
    if syntax is not Syntax.AUTO or not query.constrains:
        return page_of(query), ()
    empty: RankedPage | None = None
    too_common: InvalidRequest | None = None
    for tried in (query, *query.without_signs()):
        try:
            page = page_of(tried)
        except InvalidRequest as exc:
            if exc.code != "phrase_too_common":
                raise
            too_common = exc
            continue
        if page.total:
            return page, () if tried is query else (_signs_warning(query, tried, too_common is not None),)
        empty = empty or page
    assert empty is not None  # the last one has no phrase
    return empty, ()


def _signs_warning(query: KeywordQuery, asked: KeywordQuery, is_too_common: bool) -> str:
    """That ``asked`` was searched for in place of ``query``, and why."""
    if is_too_common:
        return (
            "the words of a phrase occur together in too many documents to search each for it, so the query was asked "
            "without its signs; add a rarer +word, or a filter"
        )
    if query.required and asked.excluded == query.excluded:
        return (
            "no document holds what the query's quotation marks and plus signs require, so it was asked without them "
            "(syntax 'query' keeps them)"
        )
    return "the query's signs leave no document, so it was asked without them (syntax 'query' keeps them)"
