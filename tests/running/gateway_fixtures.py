"""Fixtures: a running gateway on a free port, with accounts, for any configuration."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from running_gateway import Running, run_gateway
from shared_gateway import SharedGateway, one_model, share_gateway
from transports import wanted_transports
from upstream import Upstream

from sage.middleware.settings.settings import Llm, Settings


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Some tests run with each HTTP client towards upstreams (``transports.py``)."""
    if "gateway_transport" in metafunc.fixturenames:
        if kinds := wanted_transports(metafunc):
            metafunc.parametrize("gateway_transport", kinds, indirect=True, scope="module")
    elif any(mark.name == "each_transport" for mark in getattr(metafunc.function, "pytestmark", ())):
        raise pytest.UsageError(f"{metafunc.function.__name__} is marked each_transport, but starts no gateway")


@pytest.fixture(scope="session", autouse=True)
def without_certificates() -> Iterator[None]:
    """No client of an SDK reads the certificates of all authorities, 20 ms each: no upstream of tests has TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def gateway_transport(request: pytest.FixtureRequest) -> str:
    """The HTTP client towards upstreams that gateways have, unless a test says another (``llm.transport``)."""
    return getattr(request, "param", Llm().transport)


@pytest.fixture
def gateway(tmp_path: Path, gateway_transport: str) -> Iterator[Callable[..., Running]]:
    """``gateway(llm={…}, api={…}, auth={…})`` starts one; all end with the test."""
    with gateways(tmp_path, gateway_transport) as start:
        yield start


@pytest.fixture(scope="module")
def module_gateway(
    tmp_path_factory: pytest.TempPathFactory, gateway_transport: str
) -> Iterator[Callable[..., Running]]:
    """Like ``gateway``, but they end with the module: for tests that change nothing in the gateway that they share."""
    with gateways(tmp_path_factory.mktemp("module"), gateway_transport) as start:
        yield start


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gateway_transport: str
) -> Iterator[SharedGateway]:
    """A gateway before one upstream for all tests of a file, whose function ``sections`` makes its configuration."""
    sections = getattr(request.module, "sections", one_model)
    with share_gateway(tmp_path_factory.mktemp("shared"), sections, gateway_transport) as started:
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
def gateways(directory: Path, transport: str) -> Iterator[Callable[..., Running]]:
    """A function that starts gateways, whose data are in ``directory``; all end with the block."""
    with ExitStack() as stack:
        started = 0

        def start(**sections: Any) -> Running:
            nonlocal started
            started += 1
            data = {"data_dir": directory / f"data{started}", "api": {"port": 0, "access_log": False}}
            data["llm"] = {"transport": transport}
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
