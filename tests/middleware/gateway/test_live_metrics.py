"""``/metrics/live``: what happens in each second, with durations from the histograms' differences."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from running_gateway import Running
from upstream import Upstream

from sage.middleware.gateway.live_metrics import percentile
from sage.middleware.gateway.metrics import BUCKETS


def counts(**by_bound: int) -> list[int]:
    found = [0] * (len(BUCKETS) + 1)
    for name, count in by_bound.items():
        found[BUCKETS.index(float(name.removeprefix("b").replace("_", ".")))] = count
    return found


@pytest.mark.parametrize(
    ("durations", "share", "seconds"),
    [
        (counts(b0_1=10), 0.5, 0.075),
        (counts(b0_1=10), 1.0, 0.1),
        (counts(b0_005=4), 0.5, 0.0025),
        (counts(b0_1=50, b1_0=50), 0.95, 0.5 + 0.5 * 45 / 50),
        ([*counts()[:-1], 3], 0.5, BUCKETS[-1]),
    ],
)
def test_percentiles_of_a_histogram(durations: list[int], share: float, seconds: float) -> None:
    assert percentile(durations, share) == pytest.approx(seconds)


@pytest.mark.slow
def test_each_second_tells_what_has_ended_in_it(upstreams: Callable[..., Running]) -> None:
    with Upstream() as upstream:
        running = upstreams(upstream)
        with running.request("GET", "/metrics/live", stream=True) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = (line for line in answer.iter_lines() if line.startswith(b"data: "))
            json.loads(next(lines)[6:])
            for _ in range(4):
                assert running.chat().status_code == 200
            assert running.chat(model="nothing").status_code == 404  # of no model: not counted here
            seen = [json.loads(next(lines)[6:]) for _ in range(2)]
    assert sum(second["requests"] for second in seen) == 4
    assert sum(second["failed"] for second in seen) == 0
    assert sum(second["completion_tokens"] for second in seen) == 4
    assert {model for second in seen for model in second["models"]} == {"bench"}
    (busy,) = [second for second in seen if second["duration"] is not None][:1]
    assert 0 < busy["duration"]["p50"] <= busy["duration"]["p95"]
    assert 0.9 < busy["seconds"] < 5


def test_it_takes_the_scope_of_metrics(upstreams: Callable[..., Running]) -> None:
    with Upstream() as upstream:
        running = upstreams(upstream)
        key = running.new_key(scopes=["generate"])
        assert running.get("/metrics/live", key=key).status_code == 403
