"""Upstream SAGE's name of the environment on Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.api.ray_environment import RayEnvironment
from sage.api.upstream_names import warn_of_name
from sage.errors import InvalidRequest

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


class RemoteEnvironment(RayEnvironment):
    """:class:`RayEnvironment`, with a warning. There is no JobManager here, so ``port`` means nothing, and a ``host``
    that is another machine is refused: ``config["ray"]["address"]`` names the cluster."""

    def __init__(
        self,
        name: str = "remote_environment",
        config: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
        port: int = 19001,
    ) -> None:
        warn_of_name("RemoteEnvironment", "from sage.api.ray_environment import RayEnvironment")
        if host not in _THIS_MACHINE:
            raise InvalidRequest(
                f"there is no JobManager here to reach at {host}:{port}; name a Ray cluster instead: "
                f"RayEnvironment({name!r}, {{'ray': {{'address': 'ray://{host}:10001'}}}})",
                param="host",
            )
        super().__init__(name, config)
