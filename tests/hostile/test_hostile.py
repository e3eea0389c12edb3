"""What `make hostile` does, with small counts: one user attacks, and another one works on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hostile.attacks import ATTACKS
from hostile.trial import trial
from hostile.victim import Victim, running_victim

pytestmark = pytest.mark.slow
_SLACK = 1.5
"""Seconds on top of each bound, and twice the worst delay without an attack: other tests run on the same machine."""


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with running_victim(tmp_path_factory.mktemp("victim")) as victim:
        yield victim


@pytest.mark.parametrize("name", ATTACKS)
def test_one_user_does_not_stop_another(name: str, victim: Victim) -> None:
    measured = trial(ATTACKS[name], victim, full=False)
    slack = _SLACK + 2 * max(seen.worst for seen in measured.quiet.values())
    assert not measured.faults(slack=slack)
    assert all(seen.seconds for seen in measured.beside.values())
