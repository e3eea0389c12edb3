"""What tests share: a running gateway on a free port, with accounts, for any configuration."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from provider_features import check_items
from running_gateway import Running, run_gateway
from shared_gateway import SharedGateway, one_model, share_gateway
from transports import set_default_transport
from upstream import Upstream

from sage.middleware.settings.settings import Settings

# Garbage is collected only once all modules are loaded, and then rarely: it was a fifth of what the fast tests took.
gc.disable()

# How many examples property tests look at: `make check-full` sets SAGE_TEST_FULL, `make check` has the reduced ones.
hypothesis.settings.register_profile("full", max_examples=1000, deadline=None)
hypothesis.settings.register_profile("reduced", max_examples=60, deadline=None)
hypothesis.settings.register_profile("fast", max_examples=20, deadline=None)

_SLOW_MODULE = re.compile(r"^pytestmark = (?:pytest\.mark\.slow|\[.*pytest\.mark\.slow.*\])$", re.MULTILINE)

MEMORY = Path("/dev/shm")
"""Where the files of the fast tests are, if it has room: thousands of small databases wait for no disk."""


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that started the tests in the background had it ignored, and programs under test would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["SAGE_LANG"] = "en"  # whatever the locale here is
    if os.environ.get("SAGE_TEST_TRANSPORT"):
        set_default_transport(os.environ["SAGE_TEST_TRANSPORT"])
    fast = config.option.markexpr == "not slow"
    reduced = "fast" if fast else "reduced"
    hypothesis.settings.load_profile("full" if os.environ.get("SAGE_TEST_FULL") else reduced)
    if fast and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= 4 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    config.addinivalue_line(
        "markers",
        "proves(vendor, *features, refused=False): what the test establishes of a vendor (docs/providers.md); refused: "
        "that it answers with a clear 400",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast tests do not load the modules of slow ones, which took each process two seconds for nothing."""
    if config.option.markexpr != "not slow" or not re.fullmatch(r"test_\w+\.py", collection_path.name):
        return None
    return True if _SLOW_MODULE.search(collection_path.read_text("utf-8")) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A mark that names an unknown vendor or feature fails the collection."""
    check_items(items)


def pytest_collection_finish() -> None:
    """From here on, garbage is collected again, but never among what the modules hold."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def without_certificates() -> Iterator[None]:
    """No client of an SDK reads the certificates of all authorities, 20 ms each: no upstream of tests has TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
        yield


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """``gateway(llm={…}, api={…}, auth={…})`` starts one; all end with the test."""
    with gateways(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Like ``gateway``, but they end with the module: for tests that change nothing in the gateway that they share."""
    with gateways(tmp_path_factory.mktemp("module")) as start:
        yield start


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGateway]:
    """A gateway before one upstream for all tests of a file, whose function ``sections`` makes its configuration."""
    sections = getattr(request.module, "sections", one_model)
    with share_gateway(tmp_path_factory.mktemp("shared"), sections) as started:
        yield started


@pytest.fixture
def up(shared: SharedGateway) -> Upstream:
    """The upstream of ``shared``, without what the test before scripted and sent."""
    return shared.up()


@pytest.fixture
def running(shared: SharedGateway, up: Upstream) -> Running:
    """The gateway of ``shared``."""
    return shared.running()


@pytest.fixture
def renewed(shared: SharedGateway) -> None:
    """To be used before ``up``, in a test whose gateway must not have served another one before."""
    shared.close()


@contextmanager
def gateways(directory: Path) -> Iterator[Callable[..., Running]]:
    """A function that starts gateways, whose data are in ``directory``; all end with the block."""
    with ExitStack() as stack:
        started = 0

        def start(**sections: Any) -> Running:
            nonlocal started
            started += 1
            data = {"data_dir": directory / f"data{started}", "api": {"port": 0, "access_log": False}}
            for name, section in sections.items():
                data[name] = {**data.get(name, {}), **section} if isinstance(section, dict) else section
            return stack.enter_context(run_gateway(Settings.model_validate(data)))

        yield start


@pytest.fixture
def upstreams(gateway: Callable[..., Running]) -> Callable[..., Running]:
    """``upstreams(first, second, …)``: a gateway whose model ``bench`` is at ``first``, falling back on the others.

    Each upstream is a provider ``up0``, ``up1``…; further sections of the configuration are keywords.
    """

    def start(*found: Any, provider: dict[str, Any] | None = None, **sections: Any) -> Running:
        providers = {
            f"up{number}": {"kind": "openai", "base_url": upstream.url, "api_key": "sk-upstream", **(provider or {})}
            for number, upstream in enumerate(found)
        }
        names = ["bench", *(f"bench{number}" for number in range(1, len(found)))]
        models = {
            name: {"deployments": [{"provider": f"up{number}", "model": f"theirs-{number}"}]}
            for number, name in enumerate(names)
        }
        models["bench"]["fallbacks"] = names[1:]
        llm = {"providers": providers, "models": models, **sections.pop("llm", {})}
        return gateway(llm=llm, **sections)

    return start
