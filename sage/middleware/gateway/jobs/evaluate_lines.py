"""The items of an evaluation: every question to every model, and to every collection whose ranking is judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal
from sage.middleware.gateway.collections.requests import parse, parse_search
from sage.middleware.gateway.context.generate_request import parse_generate
from sage.middleware.gateway.context.prompts import query_of
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.evaluate_request import (
    EvaluatedCollection,
    EvaluateFields,
    Question,
    grades_of,
)
from sage.middleware.gateway.jobs.lines import LineReader
from sage.middleware.gateway.jobs.named import NamedThings
from sage.middleware.gateway.jobs.options import query_list


class EvaluateLines:
    """The questions of one evaluation."""

    unit = "questions"

    def __init__(self, gateway: Gateway, fields: EvaluateFields, questions: list[Any] | None) -> None:
        self._gateway = gateway
        self._fields = fields
        self._questions = questions
        self._named = NamedThings(gateway)
        self._ids: set[str] = set()
        self._depth = max((metric.depth for metric in fields.ranking_metrics), default=0)
        self._systems = fields.systems()
        models = [*fields.models, *([fields.judge.model] if fields.judge is not None else ())]
        models += [one.rerank.model for one in fields.collections if one.rerank is not None]
        self._named.add_models(models, None)
        if fields.collections:
            self._named.add_collections([one.collection for one in fields.collections], None)

    @classmethod
    async def open(cls, gateway: Gateway, principal: Principal, fields: dict[str, Any]) -> EvaluateLines:
        questions = fields.pop("questions", None)
        if questions is not None and not isinstance(questions, list):
            raise InvalidRequest("'questions' must be a list of questions", param="questions")
        for name in ("models", "collections", "metrics"):
            if isinstance(fields.get(name), str):  # of a query string
                fields[name] = query_list(fields[name])
        parsed = parse(EvaluateFields, fields)
        for collection in parsed.collections:
            collection.check_filter()
        most = gateway.collections.limits.max_results
        deep = next((metric for metric in parsed.ranking_metrics if metric.depth > most), None)
        if deep is not None:
            raise InvalidRequest(
                f"'{deep}' looks further than the {most} results of a search (retrieval.limits.max_results)",
                param="metrics",
            )
        return cls(gateway, parsed, questions)

    def own_lines(self) -> list[Any] | None:
        return self._questions

    def check(self, line: dict[str, Any], number: int) -> Sequence[dict[str, Any]]:
        question = parse(Question, line)
        name = question.id if question.id is not None else str(len(self._ids))
        if name in self._ids:
            raise InvalidRequest(f"an earlier question has the id {name!r} too", param="id")
        self._ids.add(name)
        about: dict[str, Any] = {"id": name, "question": question.question}
        if question.expected is not None:
            about["expected"] = question.expected
        if question.metadata is not None:
            about["metadata"] = question.metadata
        items = [*self._answers(question, about), *self._searches(question, about)]
        if not items:
            raise InvalidRequest(
                "without 'models' a question needs 'relevant', the documents that a search should find",
                param="relevant",
            )
        return items

    def _answers(self, question: Question, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for index, (model, collection) in enumerate(self._systems):
            message = {"role": "user", "content": self._fields.prompt_for(question.question)}
            request = {
                "model": model,
                "messages": [*(question.messages or ()), message],
                **self._fields.sampling(),
            }
            query = query_of(question.question) if collection is not None else ""
            if collection is not None and query:
                request["search"] = {**collection.search_fields(), "query": query}
            self._gateway.check(parse_generate(request).call())
            yield {"system": index, "about": about, "generate": request}

    def _searches(self, question: Question, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        query = query_of(question.question)
        if question.relevant is None or not query or not self._fields.ranking_metrics:
            return
        relevant = grades_of(question.relevant)
        for index, collection in enumerate(self._fields.collections, len(self._systems)):
            request = {**collection.search_fields(), "query": query, "top_k": self._depth}
            parse_search(request)
            yield {"system": index, "about": {**about, "relevant": relevant}, "search": request}

    async def check_names(self, principal: Principal, reader: LineReader) -> None:
        await self._named.check(principal, reader)

    def params(self) -> dict[str, Any]:
        fields = self._fields
        return {
            "answers": [
                {"model": model, "collection": None if collection is None else collection.label}
                for model, collection in self._systems
            ],
            "searches": [_searched(collection) for collection in fields.collections],
            "answer_metrics": fields.answer_metrics,
            "ranking_metrics": list(map(str, fields.ranking_metrics)),
            "judge": None if fields.judge is None else fields.judge.model_dump(),
            "seed": fields.seed or 0,
            "questions": len(self._ids),
        }


def _searched(collection: EvaluatedCollection) -> dict[str, Any]:
    return {"collection": collection.label, "mode": collection.mode}
