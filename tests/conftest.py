"""What all tests share: fixtures, how thoroughly they look, and which process runs which."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import second_try
from brief_reports import be_brief
from file_costs import CostRecorder, by_cost, share_of

# Garbage is collected only once all modules are loaded, and then rarely: it was a fifth of what the fast tests took.
gc.disable()

_SLOW_MODULE = re.compile(r"^pytestmark = (?:\[[^\]]*)?pytest\.mark\.slow\b", re.MULTILINE)

_COLLECTED = pytest.StashKey[int]()

MEMORY = Path("/dev/shm")
"""Where the files of the fast tests are, if it has room: thousands of small databases wait for no disk."""


def pytest_addoption(parser: pytest.Parser) -> None:
    second_try.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that started the tests in the background had it ignored, and programs under test would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["SAGE_LANG"] = "en"  # whatever the locale here is
    fast = config.option.markexpr == "not slow"
    if fast and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= 4 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    config.addinivalue_line(
        "markers",
        "proves(vendor, *features, refused=False): what the test establishes of a vendor (docs/providers.md); refused: "
        "that it answers with a clear 400",
    )
    config.addinivalue_line("markers", "each_transport: always runs with each HTTP client towards upstreams")
    if os.environ.get("SAGE_TEST_COSTS") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(CostRecorder())
    second_try.register(config)
    if not os.environ.get("SAGE_TEST_COSTS"):
        be_brief(config)
    if _only_hands_out(config):
        return  # this process runs no test, and need not load the gateway
    _prepare(config, fast=fast)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist tells its processes no option of its own."""
    node.workerinput["dist"] = node.config.getoption("dist")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    node.config.stash[_COLLECTED] = node.config.stash.get(_COLLECTED, 0) + len(ids)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[Any]:
    """xdist takes what the last process has collected for all, and nothing would be a failure."""
    result = yield
    if _only_hands_out(session.config) and session.config.getoption("dist") == "each":
        session.testscollected = session.config.stash.get(_COLLECTED, 0)
    return result


def _only_hands_out(config: pytest.Config) -> bool:
    return config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")


def _prepare(config: pytest.Config, *, fast: bool) -> None:
    """For a process that runs tests: how many examples property tests look at, and the fixtures."""
    import hypothesis

    # `make check-full` sets SAGE_TEST_FULL, `make check` has the reduced ones.
    hypothesis.settings.register_profile("full", max_examples=1000, deadline=None)
    hypothesis.settings.register_profile("reduced", max_examples=40, deadline=None)
    hypothesis.settings.register_profile("fast", max_examples=20, deadline=None)
    reduced = "fast" if fast else "reduced"
    if os.environ.get("SAGE_TEST_FULL"):
        hypothesis.settings.load_profile("full")
    else:
        hypothesis.settings.load_profile(reduced)
        _look_for_no_constants()
    config.pluginmanager.import_plugin("gateway_fixtures")
    config.pluginmanager.import_plugin("database_fixtures")
    if os.environ.get("SAGE_TEST_TRANSPORT"):
        from transports import set_default_transport

        set_default_transport(os.environ["SAGE_TEST_TRANSPORT"])


def _look_for_no_constants() -> None:
    """Hypothesis parses every module here for constants to try: four seconds a process before it has kept them."""
    from hypothesis.internal.conjecture import providers

    vars(providers)["_get_local_constants"] = lambda: providers._local_constants


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tests do not load the modules of slow ones, which took each process two seconds for nothing.

    With ``--dist each`` each process has its share of the files and loads no other.
    """
    if config.option.markexpr != "not slow" or not re.fullmatch(r"test_\w+\.py", collection_path.name):
        return None
    share = share_of(config)
    if share is not None and collection_path not in share:
        return True
    return True if _SLOW_MODULE.search(collection_path.read_text("utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that take longest come first, or one would be left running alone.

    A mark that names an unknown vendor or feature fails the collection.
    """
    from provider_features import check_items

    check_items(items)
    share = share_of(config)
    if share is not None:
        items[:] = [item for item in items if item.path in share]  # files that were named are collected in any case
    items.sort(key=by_cost)


def pytest_sessionfinish() -> None:
    if (browser := sys.modules.get("browser")) is not None:
        browser.close_browser()
    if (forks := sys.modules.get("loaded_process")) is not None:
        forks.close_server()


def pytest_collection_finish() -> None:
    """From here on, garbage is collected again, but never among what the modules hold, which takes a second to walk."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
