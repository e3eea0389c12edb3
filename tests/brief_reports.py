"""xdist's processes tell the one that hands out less: six messages a test were a twentieth of what the tests cost."""

from __future__ import annotations

from typing import Any

import pytest


def be_brief(config: pytest.Config) -> None:
    """In a process of xdist's, unless somebody wants to know what each phase of a test took."""
    if not hasattr(config, "workerinput") or config.option.durations or config.option.xmlpath:
        return
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "WorkerInteractor":
            config.pluginmanager.unregister(plugin)
            plugin.__class__ = _brief(type(plugin))
            config.pluginmanager.register(plugin)


def _brief(usual: Any) -> Any:
    """xdist loads the module of ``usual`` under another name in each process."""

    class BriefInteractor(usual):  # type: ignore[misc]
        """Sends of each test its outcome, its failures and that it has ended."""

        def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
            """Is left out, and so is the end, which another message tells too."""

        pytest_runtest_logfinish = pytest_runtest_logstart

        @pytest.hookimpl
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            """What went well before and after a test is left out."""
            if report.when == "call" or not report.passed:
                super().pytest_runtest_logreport(report)

    return BriefInteractor
