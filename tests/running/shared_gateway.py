"""One gateway before one scripted upstream, for all tests of a file that ask it no more than what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from running_gateway import Running, run_gateway
from upstream import Upstream

from sage.middleware.settings.settings import Settings

PATIENT = {"breaker_failures": 1_000_000}
"""Answers that a test spoils keep no later one from its upstream."""


class SharedGateway:
    """Starts both at their first use, and anew after a test in which the upstream failed: pauses would go on.

    ``sections`` makes the configuration of a gateway before an upstream.
    """

    def __init__(
        self, directory: Path, sections: Callable[[Upstream], dict[str, Any]], transport: str | None = None
    ) -> None:
        """``transport`` is the HTTP client towards the upstream, if not the usual one."""
        self._directory = directory
        self._transport = {} if transport is None else {"transport": transport}
        self._sections = sections
        self._started = ExitStack()
        self._up: Upstream | None = None
        self._running: Running | None = None
        self._count = 0

    def up(self) -> Upstream:
        """The upstream, without what the test before scripted and sent."""
        if self._up is not None and self._up.failed:
            self.close()
        if self._up is None:
            self._up = self._started.enter_context(Upstream())
        self._up.reset()
        return self._up

    def running(self) -> Running:
        """The gateway before :meth:`up`."""
        if self._running is None:
            assert self._up is not None
            self._count += 1
            data = {"data_dir": self._directory / f"data{self._count}", "api": {"port": 0, "access_log": False}}
            sections = self._sections(self._up)
            sections["llm"] = {**self._transport, **sections.get("llm", {})}
            settings = Settings.model_validate({**data, **sections})
            self._running = self._started.enter_context(run_gateway(settings))
        return self._running

    def close(self) -> None:
        """Ends both; the next test has new ones."""
        self._started.close()
        self._up = self._running = None


@contextmanager
def share_gateway(
    directory: Path, sections: Callable[[Upstream], dict[str, Any]], transport: str | None = None
) -> Iterator[SharedGateway]:
    """A :class:`SharedGateway` that ends with the block."""
    shared = SharedGateway(directory, sections, transport)
    try:
        yield shared
    finally:
        shared.close()


def one_model(up: Upstream, **provider: Any) -> dict[str, Any]:
    """Sections of a gateway whose model ``bench`` is ``theirs-0`` of the provider ``up0``, which is at ``up``."""
    providers = {"up0": {"kind": "openai", "base_url": up.url, "api_key": "sk-upstream", **provider}}
    models = {"bench": {"deployments": [{"provider": "up0", "model": "theirs-0"}]}}
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}


def each_kind(up: Upstream, kinds: Iterable[str], **provider: Any) -> dict[str, Any]:
    """Sections of a gateway with a provider of each of ``kinds`` at ``up``, and a model of the kind's name at each."""
    providers = {kind: {"kind": kind, "base_url": up.url, "api_key": "sk-upstream", **provider} for kind in kinds}
    models = {kind: {"deployments": [{"provider": kind, "model": "theirs"}]} for kind in kinds}
    return {"llm": {"providers": providers, "models": models, "routing": PATIENT}}
