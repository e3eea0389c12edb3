"""The window of a minute, against a plain list of everything that happened."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.limits.local_limiter import Admitted, LocalLimiter
from sage.middleware.limits.over_limit import OverLimit, duration
from sage.middleware.settings.limits import Limits, SubjectLimits

RPM, TPM, CONCURRENT = 6, 100, 3
SUBJECTS = (
    SubjectLimits("key:k", Limits(rpm=RPM, concurrent=CONCURRENT)),
    SubjectLimits("tenant:t", Limits(tpm=TPM)),
)


@dataclass
class Log:
    """What a reader of all calls would count: each with its time and its tokens."""

    calls: list[list[float]] = field(default_factory=list)

    def requests(self, since: float) -> int:
        return sum(1 for at, _, counts in self.calls if at > since and counts)

    def tokens(self, since: float) -> float:
        return sum(tokens for at, tokens, _ in self.calls if at > since)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 40), st.integers(0, 80)),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 0.3, 0.5, 7.0, 29.9, 59.6, 61.0]), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 5), st.integers(0, 150)),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_nothing_passes_that_a_list_of_all_calls_would_refuse_and_little_is_refused_that_it_would_not(
    steps: list[tuple[str, float, int]],
) -> None:
    """A use counts for 60 seconds at least and for 60.5 at most."""
    now = 1000.0
    limiter = LocalLimiter(lambda: now)
    log = Log()
    running: list[tuple[Admitted, list[float]]] = []
    for step, first, second in steps:
        if step == "wait":
            now += first
        elif step == "call":
            tokens = min(TPM, int(first) + second)
            strict = log.requests(now - 60) < RPM and log.tokens(now - 60) + tokens <= TPM
            lenient = log.requests(now - 60.5) < RPM and log.tokens(now - 60.5) + tokens <= TPM
            is_free = len(running) < CONCURRENT
            try:
                admitted = limiter.admit(SUBJECTS, int(first), second)
            except OverLimit:
                assert (lenient, is_free) != (True, True)
            else:
                assert (strict, is_free) == (True, True)
                entry = [now, float(tokens), 1.0]
                log.calls.append(entry)
                running.append((admitted, entry))
        elif running:
            admitted, entry = running.pop(int(first) % len(running))
            if step == "cancel":
                admitted.cancel()
                entry[1] = entry[2] = 0.0
            else:
                admitted.settle(second)
                if second > entry[1]:
                    log.calls.append([now, second - entry[1], 0.0])
                else:
                    entry[1] = float(second)


def test_a_refusal_says_when_there_is_room_and_then_there_is() -> None:
    now = 0.25
    limiter = LocalLimiter(lambda: now)
    for at in (0.25, 10.0, 20.0):
        now = at
        limiter.admit((SubjectLimits("user:ann", Limits(rpm=3)),), 0, 0)
    now = 30.0
    message = r"user 'ann' has made 3 requests in 60 seconds, of 3; try again in 30\.5 s"
    with pytest.raises(OverLimit, match=message) as refused:
        limiter.admit((SubjectLimits("user:ann", Limits(rpm=3)),), 0, 0)
    assert (refused.value.subject, refused.value.kind) == ("user", "requests")
    now += refused.value.retry_after or 0
    assert limiter.admit((SubjectLimits("user:ann", Limits(rpm=3)),), 0, 0)
    limits = (SubjectLimits("model:m", Limits(tpm=100)),)
    limiter.admit(limits, 50, 40)
    with pytest.raises(OverLimit, match="has used 90 tokens in 60 seconds, of 100, and this request may use 20"):
        limiter.admit(limits, 10, 10)
    with pytest.raises(OverLimit, match="about 101 tokens, and model 'm' may use 100 in 60 seconds: shorten it"):
        limiter.admit(limits, 101, 0)


def test_a_refused_call_takes_from_none_of_its_subjects() -> None:
    limiter = LocalLimiter(lambda: 5.0)
    wide, narrow = SubjectLimits("key:k", Limits(rpm=3, tpm=90)), SubjectLimits("tenant:t", Limits(rpm=1))
    limiter.admit((narrow,), 0, 0)
    for _ in range(10):
        with pytest.raises(OverLimit, match="tenant 't'"):
            limiter.admit((wide, narrow), 30, 0)
    for _ in range(3):
        limiter.admit((wide,), 30, 0)
    with pytest.raises(OverLimit, match="key 'k'"):
        limiter.admit((wide,), 30, 0)


def test_subjects_that_are_idle_are_forgotten() -> None:
    now = 0.0
    limiter = LocalLimiter(lambda: now)
    for number in range(5000):
        now += 1.0
        limiter.admit((SubjectLimits(f"key:{number}", Limits(rpm=3)),), 0, 0).settle(0)
    assert len(limiter) < 100


def test_durations_are_written_as_openai_writes_them() -> None:
    seconds = [0.0124, 0.999, 1, 8.64, 59.999, 60, 60.4, 360, 3661]
    assert [duration(each).decode() for each in seconds] == [
        *("12ms", "999ms", "1s", "8.64s", "1m0s", "1m0s", "1m0.4s", "6m0s", "61m1s"),
    ]
