"""Tests that failed are tried once more, alone: ``pytest --second-try``, as ``make check`` does.

A busy machine makes a test in ten thousand fail. So at the end, when nothing else runs any longer, the files of at most
five failed tests run again, whole and one after the other: what fails only after the tests before it fails again. Tests
that pass then are told of as unsteady, with what they failed of; all others have failed. More failures, a process that
crashed and a file that cannot be loaded have no second try.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AT_MOST = 5
"""Failed tests that are tried again; what breaks more is no accident."""
_PATIENCE = 900.0
"""Seconds that the second try may take."""
_CRASHED = "???"
"""What xdist calls the phase of a test in which its process died."""


def add_options(parser: pytest.Parser) -> None:
    """For ``pytest_addoption`` of a conftest."""
    group = parser.getgroup("second try")
    group.addoption("--second-try", action="store_true", help="try a few failed tests once more, alone")
    group.addoption("--outcomes", metavar="FILE", help="write which tests passed and failed there, as JSON")


def register(config: pytest.Config) -> None:
    """What the options ask for; nothing in a process of xdist's."""
    if hasattr(config, "workerinput"):
        return
    if config.option.second_try:
        config.pluginmanager.register(SecondTry(config))
    if config.option.outcomes:
        config.pluginmanager.register(Outcomes(Path(config.option.outcomes)))


class Outcomes:
    """Writes which tests passed and which failed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed: dict[str, None] = {}
        self._failed: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test."""
        if report.failed:
            self._failed[report.nodeid] = None
        elif report.passed and report.when == "call":
            self._passed[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        """Called once."""
        passed = [test for test in self._passed if test not in self._failed]
        self._file.write_text(json.dumps({"passed": passed, "failed": list(self._failed)}), "utf-8")


class SecondTry:
    """Takes back the failures of tests that pass when they are alone."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: dict[str, list[pytest.TestReport]] = {}
        self._hopeless = ""
        """Why there is no second try; empty means that there may be one."""
        self._unsteady: dict[str, str] = {}
        """Tests that passed once and failed once, with what they failed of."""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called for each file."""
        if report.failed:
            self._hopeless = f"{report.nodeid} could not be loaded"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test."""
        if report.failed and not hasattr(report, "wasxfail"):
            self._failed.setdefault(report.nodeid, []).append(report)
            if report.when == _CRASHED:
                self._hopeless = "a process of the tests crashed"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, error: object | None) -> None:
        """xdist calls this for each of its processes."""
        if error:
            self._hopeless = "a process of the tests crashed"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[Any]:
        """Around all tests; pytest learns afterwards from ``session`` whether some failed."""
        result = yield
        if self._hopeless and not session.testsfailed:
            session.testsfailed = 1  # a process crashed between two tests, and others may never have run
        if self._failed and not self._hopeless and len(self._failed) > AT_MOST:
            self._hopeless = f"more than {AT_MOST} tests failed"
        if self._failed and not self._hopeless:
            self._judge(session, self._run_again())
        return result

    def _run_again(self) -> dict[str, list[str]]:
        files = sorted({test.partition("::")[0] for test in self._failed})
        reporter = self._reporter
        reporter.ensure_newline()
        reporter.write_sep("=", f"second try, alone: {len(self._failed)} failed, in {' '.join(files)}")
        with tempfile.TemporaryDirectory() as scratch:
            outcomes = Path(scratch) / "outcomes.json"
            command = [sys.executable, "-m", "pytest", "-m", self._config.option.markexpr, "--outcomes", str(outcomes)]
            try:
                ran = subprocess.run(
                    [*command, *files],
                    cwd=self._config.rootpath,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=_PATIENCE,
                )
                output = ran.stdout
            except subprocess.TimeoutExpired as exc:
                output = (exc.stdout or b"") + b"\nthe second try took too long\n"
            reporter.write_line(output.decode("utf-8", "replace").rstrip())
            if outcomes.exists():
                found: dict[str, list[str]] = json.loads(outcomes.read_text("utf-8"))
                return found
        return {"passed": [], "failed": []}

    def _judge(self, session: pytest.Session, second: dict[str, list[str]]) -> None:
        for test in second["passed"]:
            if test in self._failed:
                self._unsteady[test] = self._failed[test][0].longreprtext
                session.testsfailed -= self._take_back(test)
        for test in second["failed"]:
            if test not in self._failed:
                self._unsteady[test] = "it passed at first, and failed when its file ran alone: see above"

    def _take_back(self, test: str) -> int:
        """Lets the closing line count ``test`` as passed; returns how many failures that were."""
        stats = self._reporter.stats
        reports = self._failed.pop(test)
        for kind in ("failed", "error"):
            stats[kind] = [report for report in stats.get(kind, []) if report not in reports]
            if not stats[kind]:
                del stats[kind]
        if not any(report.nodeid == test for report in stats.get("passed", [])):
            first = reports[0]
            passed = pytest.TestReport(test, first.location, first.keywords, "passed", None, "call")
            stats.setdefault("passed", []).append(passed)
        return len(reports)

    @property
    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self) -> None:
        """Called before the closing line."""
        reporter = self._reporter
        if self._hopeless:
            reporter.write_sep("=", f"no second try: {self._hopeless}")
        if not self._unsteady:
            return
        reporter.write_sep("=", f"UNSTEADY: {len(self._unsteady)}", yellow=True, bold=True)
        for test, failure in self._unsteady.items():
            reporter.write_line(f"of {test}:")
            reporter.write_line(failure)
        for test in self._unsteady:
            reporter.write_line(f"unsteady: {test} failed once and passed once", yellow=True, bold=True)
