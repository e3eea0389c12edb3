"""An environment on Ray: its services, and the functions of its pipelines, are actors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.api.local_environment import LocalEnvironment


class RayEnvironment(LocalEnvironment):
    """As :class:`LocalEnvironment`, with the same calls. ``config["ray"]`` names the cluster
    (:class:`sage.kernels.runtime.ray.cluster.RayCluster`); without it, Ray is started on this machine.

    The memory of a service is lost with its actor: give it a durable backend. Extra: ``ray``.
    """

    def __init__(
        self, name: str = "environment", config: Mapping[str, Any] | None = None, *, platform: str = "ray"
    ) -> None:
        super().__init__(name, config, platform=platform)
