"""The kind ``evaluate``: questions to models and to searches, scored; the report is the job's result."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from sage.middleware.evaluation.answers import score_answer
from sage.middleware.evaluation.expected import ExpectedAnswer
from sage.middleware.evaluation.judge import Verdict, judge_prompt, read_verdict
from sage.middleware.evaluation.ranking import RankingMetric
from sage.middleware.evaluation.regex_match import regex_match
from sage.middleware.evaluation.report import EvaluationReport
from sage.middleware.gateway.context.neutralise import neutralise_control_tokens
from sage.middleware.worker.kinds.tally import Tally
from sage.middleware.worker.retries import PatientAnswer, PatientCalls
from sage.middleware.worker.run import ItemResult, JobItem, Outcome, Run

_JUDGED_ANSWER = 50_000
"""Characters of an answer that a judge is shown."""


async def run(run: Run) -> Outcome:
    """Asks and scores all items; the report is made of the results of all of them, whoever handed them in."""
    evaluation = _Evaluation(run)
    await run.each(evaluation.score)
    if run.is_cut_short:
        return Outcome()  # the rest goes back into the queue
    report = EvaluationReport(run.params["answers"], run.params["searches"], run.params["seed"])
    async for one in run.results():
        report.add(one["line"])
    total = {"questions": run.params["questions"], **await evaluation.tally.total()}
    return Outcome({**total, **await asyncio.to_thread(report.as_json)})


class _Evaluation:
    """The items of one run."""

    def __init__(self, run: Run) -> None:
        self.tally = Tally(run)
        self._run = run
        self._calls = PatientCalls(run.client)
        self._systems = [*run.params["answers"], *run.params["searches"]]
        self._answer_metrics: list[str] = run.params["answer_metrics"]
        read = map(RankingMetric.read, run.params["ranking_metrics"])
        self._ranking_metrics = [metric for metric in read if metric is not None]
        self._judge: Mapping[str, Any] | None = run.params["judge"]

    async def score(self, item: JobItem) -> ItemResult:
        if "search" in item.body:
            return self.tally.add(await self._score_search(item))
        return self.tally.add(await self._score_answer(item))

    async def _score_search(self, item: JobItem) -> ItemResult:
        answer = await self._calls.post("/search", item.body["search"])
        made = answer.made
        if made is None:
            return self._failed(item, answer)
        ids = [result["id"] for result in made["results"]]
        grades = item.body["about"]["relevant"]
        scores = {str(metric): round(metric.score(ids, grades), 6) for metric in self._ranking_metrics}
        return ItemResult(item.index, True, self._line(item, found=ids, scores=scores, **_latency(answer)))

    async def _score_answer(self, item: JobItem) -> ItemResult:
        answer = await self._calls.post("/generate", {**item.body["generate"], "cost": True})
        made = answer.made
        if made is None:
            return self._failed(item, answer)
        about, text = item.body["about"], str(made.get("text") or "")
        expected = None if about.get("expected") is None else ExpectedAnswer.read(about["expected"])
        scores = await self._scores(text, expected)
        fields: dict[str, Any] = {"answer": text, "finish_reason": made.get("finish_reason"), "scores": scores}
        if made.get("sources") is not None:
            fields["sources"] = [source["id"] for source in made["sources"]]
        usage = made.get("usage")
        total = dict(usage or {})
        if self._judge is not None:
            verdict, used = await self._verdict(self._judge, about["question"], expected, text)
            scores["judge"] = verdict.score
            fields["judge"] = verdict.as_json()
            total = {name: total.get(name, 0) + used.get(name, 0) for name in {*total, *used}}
        line = self._line(item, **fields, usage=usage, cost=made.get("cost"), **_latency(answer))
        return ItemResult(item.index, True, line, total or None)

    async def _scores(self, text: str, expected: ExpectedAnswer | None) -> dict[str, float | None]:
        if expected is None:
            return {}
        made = await asyncio.to_thread(score_answer, text, expected, self._answer_metrics)
        scores: dict[str, float | None] = {name: round(score, 6) for name, score in made.items()}
        if expected.regex is not None and "regex_match" in self._answer_metrics:
            scores["regex_match"] = await regex_match(expected.regex, text)
        return scores

    async def _verdict(
        self, judge: Mapping[str, Any], question: str, expected: ExpectedAnswer | None, text: str
    ) -> tuple[Verdict, dict[str, int]]:
        """What the judge says, and what it used. Whatever goes wrong with it is no verdict, and no failure."""
        right = [] if expected is None else _in_words(expected)
        parts = [neutralise_control_tokens(part) for part in (question, text[:_JUDGED_ANSWER])]
        prompt = judge_prompt(parts[0], list(map(neutralise_control_tokens, right)), parts[1], judge["rubric"])
        request = {"model": judge["model"], "prompt": prompt, "max_tokens": judge["max_tokens"]}
        if judge["temperature"] is not None:
            request["temperature"] = judge["temperature"]
        answer = await self._calls.post("/generate", request)
        made = answer.made
        if made is None:
            return Verdict(None, f"the judge did not answer: {answer.error['message']}"), {}
        used = {name: count for name, count in (made.get("usage") or {}).items() if type(count) is int}
        return read_verdict(str(made.get("text") or "")), used

    def _failed(self, item: JobItem, answer: PatientAnswer) -> ItemResult:
        return ItemResult(item.index, False, self._line(item, status=answer.status, error=answer.error))

    def _line(self, item: JobItem, **fields: Any) -> dict[str, Any]:
        about, system = item.body["about"], item.body["system"]
        shown = {name: about[name] for name in ("question", "expected", "relevant", "metadata") if name in about}
        return {
            "index": item.index,
            "question_id": about["id"],
            "system": system,
            **self._systems[system],
            **shown,
            **fields,
        }


def _latency(answer: PatientAnswer) -> dict[str, float]:
    return {"latency_ms": round(answer.seconds * 1000, 3)}


def _in_words(expected: ExpectedAnswer) -> list[str]:
    """The expectation as a judge reads it."""
    if expected.number is not None:
        return [f"{expected.number:g}"]
    return list(expected.texts) if expected.texts else [f"a text that matches the regular expression {expected.regex}"]
