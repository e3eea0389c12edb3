"""The models of files that were pulled from a hub, or added, beside the configuration: the registry has them too."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from sage.errors import ConfigError, Conflict
from sage.middleware.dispatch.deployment import PublicModel
from sage.middleware.engines.machine_memory import machine_memory
from sage.middleware.hub.sources import is_source
from sage.middleware.providers.base import Provider, PullProgress
from sage.middleware.settings.settings import DeploymentSettings
from sage.middleware.settings.settings import Model as ModelSettings

_log = logging.getLogger(__name__)
_NONE: frozenset[str] = frozenset()


class ModelTable(Protocol):
    """What the registry does for its models of files."""

    def get(self, name: str) -> PublicModel | None: ...

    def register(self, name: str, settings: ModelSettings, *, source: str = "program") -> PublicModel: ...

    def forget(self, provider: Provider, name: str) -> None:
        """Drops the provider's model of that name, and its engine, which ends after its requests."""
        ...

    def check_free(self, name: str) -> None:
        """Raises if no model of a file may have that name."""
        ...


class PulledOnnx(Protocol):
    """The provider of models that were pulled in ONNX's format, which run in this process."""

    def known_models(self) -> tuple[str, ...]: ...

    def missing(self, model: str) -> str | None:
        """Why the model cannot serve; ``None`` means that it can."""

    def remove(self, name: str) -> bool:
        """Deletes what was pulled as ``name``; tells whether there was anything."""


class PulledModels:
    """Keeps the registry equal to the list of files, which other processes change too."""

    def __init__(self, table: ModelTable, providers: Iterable[Provider]) -> None:
        self._table = table
        self._provider = next((provider for provider in providers if provider.model_files is not None), None)
        self._names = _NONE
        """The models that are registered, or wait for their names."""

    def refresh(self) -> None:
        """Registers what was added since, and drops what is gone. It costs a look at one file's date."""
        provider = self._provider
        if provider is None or provider.model_files is None:
            return
        try:
            names = provider.model_files.names()
        except ConfigError as exc:
            _log.warning("%s", exc.message)
            return
        if names is self._names:
            return
        gone, new, self._names = self._names - names, names - self._names, names
        for name in gone:
            self._table.forget(provider, name)
        for name in sorted(new):
            self._register(provider, name)

    def _register(self, provider: Provider, name: str) -> None:
        model = self._table.get(name)
        if model is not None and model.registered:
            _log.warning("model '%s' is there already; the file of that name, pulled or added, waits", name)
            return
        wanted = DeploymentSettings(provider=provider.name, model=name)
        self._table.register(name, ModelSettings(deployments=(wanted,)), source="file")

    async def pull(
        self,
        source: str,
        check: Callable[[str], None],
        *,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[PullProgress, None]:
        """Pulls a model from a hub; it can be used when this ends. ``name`` is its public name; ``None`` means one of
        the repository's.

        ``check`` raises for a name that the caller may not use, before a byte of the model is fetched.
        """
        provider = self._provider
        if provider is None or provider.model_files is None:
            raise Conflict("this gateway has no provider 'local', which runs pulled models", code="not_hosted")

        def accept(default: str) -> str:
            chosen = name or default
            check(chosen)
            if not is_source(chosen):  # a model in ONNX's format keeps the name that the hub gives it
                self._table.check_free(chosen)
            return chosen

        warning = None
        async with aclosing(provider.model_files.pull(source, accept, options)) as steps:
            async for step in steps:
                if warning is None and (warning := _memory_warning(step.total)) is not None:
                    yield PullProgress(warning)
                if step.model is not None:
                    self._table.forget(provider, step.model)  # another content may be in its place
                    self._names -= {step.model}
                    self.refresh()
                yield step

    async def remove(self, name: str) -> bool:
        """Removes the model of a file, and what was pulled for it; tells whether it was one."""
        self.refresh()
        model = self._table.get(name)
        if model is None or model.source != "file":
            return False
        assert self._provider is not None
        assert self._provider.model_files is not None
        await self._provider.model_files.remove(name)
        self.refresh()
        return True


def _memory_warning(size: int | None) -> str | None:
    """What to say of a file of so many bytes, if it is larger than this machine's memory."""
    memory = machine_memory()
    if size is None or memory is None or size <= memory:
        return None
    return (
        f"its file has {size / 2**30:.1f} GiB, and this machine lets programs take {memory / 2**30:.1f} GiB of memory: "
        "it will not run well here"
    )
