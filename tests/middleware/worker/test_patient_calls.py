"""How long a job is patient with a model, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from virtual_time import run

from sage.middleware.worker.job_client import Answer
from sage.middleware.worker.retries import PatientAnswer, PatientCalls

Reply = int | tuple[int, str] | Exception


class Script:
    """Answers with these statuses, each with a Retry-After if it is a pair, the last one for ever."""

    def __init__(self, *replies: Reply) -> None:
        self._replies: Iterator[Reply] = iter(replies)
        self._last: Reply = 200
        self.tries = 0

    async def post(self, path: str, json: Any = None) -> Answer:
        self.tries += 1
        self._last = next(self._replies, self._last)
        await asyncio.sleep(1)
        if isinstance(self._last, Exception):
            raise self._last
        status, after = self._last if isinstance(self._last, tuple) else (self._last, None)
        return Answer(
            status, {} if after is None else {"Retry-After": after}, b'{"error": {"message": "m", "code": "c"}}'
        )


def timed(script: Script, calls: int = 1) -> tuple[list[PatientAnswer], float]:
    """The answers to so many calls, and the seconds that they took."""

    async def work() -> tuple[list[PatientAnswer], float]:
        clock, patient = asyncio.get_running_loop().time, PatientCalls(script)
        begun = clock()
        return [await patient.post("/generate", {}) for _ in range(calls)], clock() - begun

    answers, seconds = run(work())
    return answers, seconds


@pytest.mark.parametrize(
    ("replies", "status", "tries"),
    [
        ((200,), 200, 1),
        ((429, (429, "7"), 503, 200), 200, 4),
        ((502, 502, 502, 200), 200, 4),
        ((502,), 502, 4),
        ((504,), 504, 3),
        ((401, 401, 200), 200, 3),
        ((ConnectionError(), 200), 200, 2),
        *(((status, 200), status, 1) for status in (400, 403, 404, 413, 422, 500, 501)),
        (((429, "86400"), 200), 429, 1),
    ],
)
def test_which_answers_are_final(replies: tuple[Reply, ...], status: int, tries: int) -> None:
    script = Script(*replies)
    (answer,), _ = timed(script)
    assert (answer.status, script.tries) == (status, tries)
    assert answer.error == {"message": "m", "code": "c"} or status == 200


def test_retry_after_is_kept() -> None:
    _, seconds = timed(Script((429, "60"), (503, "10"), 200))
    assert 73 <= seconds <= 70 * 1.25 + 3


@pytest.mark.parametrize(("status", "low", "high"), [(503, 600, 650), (429, 3600, 3650)])
def test_what_passes_by_itself_is_waited_for_a_while(status: int, low: float, high: float) -> None:
    (answer,), seconds = timed(Script(status))
    assert (answer.status, low <= seconds <= high) == (status, True), seconds


def test_a_model_that_is_gone_does_not_hold_up_every_line() -> None:
    answers, seconds = timed(Script(503), calls=100)
    assert {answer.status for answer in answers} == {503}
    assert seconds < 650 + 99 * 4
    script = Script(*[502] * 4, *[502] * 2, 200, *[502] * 4)
    answers, _ = timed(script, calls=4)
    assert ([answer.status for answer in answers], script.tries) == ([502, 502, 200, 502], 4 + 2 + 1 + 4)


def test_one_model_that_is_gone_costs_another_no_patience() -> None:
    script = Script(*[502] * 4, 502, 502, 200)

    async def work() -> list[int]:
        patient = PatientCalls(script)
        return [(await patient.post("/generate", {"model": model})).status for model in ("gone", "other")]

    assert run(work()) == [502, 200]
    assert script.tries == 4 + 3


def test_a_gateway_that_is_lost_is_no_fault_of_the_line() -> None:
    script = Script(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError):
        timed(script)
    assert script.tries == 4
