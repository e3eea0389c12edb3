"""The models and collections that the lines of a job name: each is looked up once, and at fault with its line."""

from __future__ import annotations

from collections.abc import Sequence

from sage.errors import InvalidRequest, PermissionDenied, SageError
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.lines import LineReader

MOST_NAMES = 64


class NamedThings:
    """What the lines so far have named, each with the first line that did; ``None`` means the job itself."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._models: dict[str, int | None] = {}
        self._collections: dict[str, int | None] = {}
        self._scopes: set[Scope] = set()

    def add_models(self, names: Sequence[str], line: int | None) -> None:
        self._add(self._models, names, line, "models")

    def add_collections(self, names: Sequence[str], line: int | None) -> None:
        self._scopes.add(Scope.SEARCH)
        self._add(self._collections, names, line, "collections")

    def add_scope(self, scope: Scope) -> None:
        self._scopes.add(scope)

    def _add(self, known: dict[str, int | None], names: Sequence[str], line: int | None, what: str) -> None:
        for name in names:
            if name not in known and len(known) == MOST_NAMES:
                raise InvalidRequest(f"the lines of a job may name {MOST_NAMES} {what}; '{name}' is one more")
            known.setdefault(name, line)

    async def check(self, principal: Principal, reader: LineReader) -> None:
        """Raises as the calls of the lines would: what the caller may not do, and names of nothing."""
        for scope in sorted(self._scopes):
            principal.require(scope)
        for name in self._models:
            principal.require_model(name)
        alone = len(self._models) == 1 or reader.items == 1
        for name, line in self._models.items():
            try:
                await self._gateway.registry.resolve(name)
            except SageError as exc:
                self._fault(exc, line, reader, alone)
        alone = len(self._collections) == 1 or reader.items == 1
        for name, line in self._collections.items():
            try:
                await self._gateway.collections.describe(principal, name)
            except SageError as exc:
                self._fault(exc, line, reader, alone)
        reader.raise_faults()

    def _fault(self, error: SageError, line: int | None, reader: LineReader, alone: bool) -> None:
        """A name that all lines share is no fault of a line; nor is what may pass by itself."""
        if alone or line is None or error.status >= 500 or isinstance(error, PermissionDenied):
            raise error
        reader.fault(error, line)
