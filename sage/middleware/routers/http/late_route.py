"""A route of the framework that is put together when a first request needs it, not when its module is loaded.

What the framework derives from an endpoint (its parameters, the validators of its bodies) takes milliseconds, and there
are a hundred endpoints: they were a fifth of the time in which a gateway starts, for routes of which most are never
asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import Match, compile_path, get_name
from starlette.types import Scope

_ADDRESS = ("path_regex", "path_format", "param_convertors")


class LateRoute(APIRoute):
    """A framework route that has its path, endpoint, name and methods from the start, and all else when it is read.

    So the framework refuses an endpoint that it cannot read with the first request, or when the routes are described
    (the tests describe all of them).

    A ``:path`` parameter may be any text; the framework's own drops a line end at the end of it, and matches none
    within.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        name: str | None = None,
        methods: Iterable[str] | None = None,
        **options: Any,
    ) -> None:
        self.path = path
        self.endpoint = endpoint
        self.name = get_name(endpoint) if name is None else name
        self.methods = {method.upper() for method in methods or ("GET",)}
        self._options = {"name": self.name, "methods": self.methods, **options}
        self._fixed = path.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        # Most routes are ruled out here, without a regular expression.
        return super().matches(scope) if scope["path"].startswith(self._fixed) else (Match.NONE, {})

    def __getattr__(self, name: str) -> Any:
        """What is not there yet: the parts of the address, or all that the framework derives."""
        own = vars(self)
        if name in _ADDRESS:
            own.update(self._address())
        elif "_options" in own and "app" not in own:
            own.update(self._derived())
        if name not in own:
            raise AttributeError(f"a route has no '{name}'")
        return own[name]

    def _address(self) -> dict[str, Any]:
        regex, path_format, convertors = compile_path(self.path)
        whole = re.compile(regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)
        return dict(zip(_ADDRESS, (whole, path_format, convertors), strict=True))

    def _derived(self) -> dict[str, Any]:
        """Taken from a second object, so that two threads that get here at once both leave a whole route behind."""
        route = object.__new__(type(self))
        APIRoute.__init__(route, self.path, self.endpoint, **self._options)
        return {name: value for name, value in vars(route).items() if name not in _ADDRESS}
