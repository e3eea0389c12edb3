"""What each test file takes, and which process of the fast tests has which files.

``SAGE_TEST_COSTS=1 make check`` writes ``tests/file_costs.txt`` anew: of each file the seconds of its fast tests and of
all. They need not be right, only nearly so among each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
_TABLE = TESTS / "file_costs.txt"
_UNKNOWN = (0.5, 2.0)
"""Of a file that is not in the table."""
_SHARE = pytest.StashKey[frozenset[Path] | None]()


def share_of(config: pytest.Config) -> frozenset[Path] | None:
    """The files that this process of the fast tests has; ``None`` means all.

    Under ``--dist each`` xdist lets every process run what it collects: each collects its share, and loads no other
    module. All others are handed out file by file, which each process must know, so each loads all.
    """
    if _SHARE not in config.stash:
        config.stash[_SHARE] = _share_of(config)
    return config.stash[_SHARE]


def _share_of(config: pytest.Config) -> frozenset[Path] | None:
    worker = getattr(config, "workerinput", None)
    if worker is None or worker["dist"] != "each":
        return None
    number = int(worker["workerid"].removeprefix("gw"))
    return frozenset(deal_out(files_of(config.args), worker["workercount"])[number])


def by_cost(item: pytest.Item) -> tuple[float, str]:
    """Sorts the files that take longest to the front."""
    return -_cost_of(item.path)[1], str(item.path)


def write_costs(fast: Mapping[str, float], everything: Mapping[str, float]) -> None:
    """By path below ``tests``: seconds of the fast tests and of all. Files that did not run keep what they have."""
    known = {name: cost for name, cost in _costs().items() if (TESTS / name).exists()}
    known |= {name: (round(fast.get(name, 0.0), 1), round(seconds, 1)) for name, seconds in everything.items()}
    _TABLE.write_text("".join(f"{name} {cost[0]} {cost[1]}\n" for name, cost in sorted(known.items())), "ascii")


def files_of(arguments: Iterable[str]) -> list[Path]:
    paths = [Path(argument.partition("::")[0]).absolute() for argument in arguments]
    return sorted({file for path in paths for file in (path.rglob("test_*.py") if path.is_dir() else [path])})


def deal_out(files: Iterable[Path], count: int) -> list[list[Path]]:
    """``files`` in ``count`` shares that take about the same."""
    shares: list[list[Path]] = [[] for _ in range(count)]
    taken = [0.0] * count
    for cost, file in sorted(((_cost_of(file)[0], file) for file in files), reverse=True):
        least = taken.index(min(taken))
        taken[least] += cost
        shares[least].append(file)
    return shares


def _cost_of(file: Path) -> tuple[float, float]:
    name = str(file.relative_to(TESTS)) if file.is_relative_to(TESTS) else file.name
    return _costs().get(name, _UNKNOWN)


@cache
def _costs() -> dict[str, tuple[float, float]]:
    rows = (line.split() for line in _TABLE.read_text("ascii").splitlines()) if _TABLE.exists() else ()
    return {name: (float(fast), float(everything)) for name, fast, everything in rows}


class CostRecorder:
    """Adds up what the tests of this run take, and writes it at the end."""

    def __init__(self) -> None:
        self._fast: defaultdict[str, float] = defaultdict(float)
        self._all: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test."""
        name = report.location[0].removeprefix("tests/")
        self._all[name] += report.duration
        if "slow" not in report.keywords:
            self._fast[name] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Called once."""
        write_costs(self._fast, self._all)
