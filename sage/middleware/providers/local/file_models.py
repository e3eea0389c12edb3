"""The models of files beside the configuration, while a gateway runs: pulled from a hub, added, removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.hub.sources import HubSource, parse_source
from sage.middleware.providers.base import PullProgress
from sage.middleware.providers.local.catalog import CatalogEntry, ModelCatalog, check_free
from sage.middleware.providers.local.hub_process import run_pull
from sage.middleware.settings.providers import LocalModel


class FileModels:
    """The :class:`~sage.middleware.providers.base.ModelFiles` of a directory."""

    def __init__(self, directory: Path) -> None:
        """Raises :class:`sage.errors.ConfigError` for a broken list."""
        self.catalog = ModelCatalog(directory)
        self._entries: Mapping[str, CatalogEntry] = {}
        self.options: Mapping[str, LocalModel] = {}
        """As :meth:`names` has last seen them: a request asks no disk."""
        self._names: frozenset[str] = frozenset()
        self.names()

    def names(self) -> frozenset[str]:
        """The same object as before if nothing has changed."""
        entries = self.catalog.entries()
        if entries is not self._entries:
            self._entries = entries
            self.options = {name: entry.options for name, entry in entries.items()}
            self._names = frozenset(entries)
        return self._names

    async def pull(
        self, source: str, accept: Callable[[str], str], options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[PullProgress, None]:
        """Fetches a model and lists it; the last step has its name.

        ``accept`` takes the name that it would get, and returns the one that it gets; what it raises ends the pull
        before a byte of the model is fetched. ``options`` are those of :class:`LocalModel`.
        """
        wanted = parse_source(source)
        name, path = "", Path()
        async with aclosing(run_pull(wanted, self.catalog.directory)) as lines:
            async for line in lines:
                if "onnx" in line:
                    if accept(line["onnx"]) != line["onnx"] or options:
                        raise InvalidRequest(
                            f"{source} is a model in ONNX's format: it keeps its name '{line['onnx']}', and takes no "
                            "context and no task",
                            param="name",
                        )
                    name = line["onnx"]
                elif "done" in line and "digest" in line["done"]:
                    yield PullProgress(f"{name} is {line['done']['digest']}")
                    yield PullProgress("success", model=name)
                elif "chosen" in line:
                    name = accept(line["chosen"]["name"])
                    path = self.catalog.directory / line["chosen"]["path"]
                    entry = CatalogEntry(LocalModel.model_validate({**(options or {}), "path": path}), source)
                    check_free(name, entry, self.catalog.entries())
                elif "done" in line:
                    entry = _pulled(line["done"], path, wanted, options or {})
                    await asyncio.to_thread(self.catalog.put, name, entry)
                    self.names()
                    if not line["done"]["chats"] and entry.options.task == "generate":
                        yield PullProgress("it has no chat template: it goes on with a text rather than answering")
                    yield PullProgress("success", model=name)
                else:
                    yield PullProgress(line["status"], line["completed"], line["total"])

    async def remove(self, name: str) -> None:
        """Removes the model and what was pulled for it."""
        await asyncio.to_thread(self.catalog.drop, name)
        self.names()


def _pulled(done: Mapping[str, Any], path: Path, source: HubSource, options: Mapping[str, Any]) -> CatalogEntry:
    chosen = {"task": "generate" if done["predicts"] else "embed", **options, "path": path}
    return CatalogEntry(LocalModel.model_validate(chosen), str(source), tuple(done["paths"]), tuple(done["sha256"]))
