"""How long Ray may take to start, by the load of the machine: with a clock that the test turns."""

from __future__ import annotations

import time

import pytest

from sage.kernels.runtime.ray.patience import Patience


@pytest.mark.parametrize(("load", "seconds"), [(0.2, 3.0), (1.0, 3.0), (4.0, 12.0), (10.0, 30.0), (1000.0, 30.0)])
def test_patience_grows_with_the_load_and_has_an_end(
    monkeypatch: pytest.MonkeyPatch, load: float, seconds: float
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    patience = Patience(3.0, lambda: load)
    for wait in patience.waits():
        assert 0 < wait <= 1.0
        now += wait
    assert patience.waited == pytest.approx(seconds, abs=0.01)


def test_load_that_comes_and_goes_counts_while_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    patience = Patience(10.0, lambda: 5.0 if now < 20 else 1.0)
    for wait in patience.waits():
        now += wait
    assert patience.waited == pytest.approx(26.0, abs=0.01)  # 20 s count as 4, and 6 as themselves


def test_one_wait_comes_at_least() -> None:
    assert len(list(Patience(0.0, lambda: 1.0).waits())) == 1
