"""The plan of an environment's pipelines: the nodes that streams have added, under names of their own."""

from __future__ import annotations

import threading
from typing import Any

from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.error_policy import Policy, policy_of
from sage.kernels.runtime.streams.nodes import SourceNode, StageNode


class PipelinePlan:
    """``environment`` is its name; ``on_error`` the policy of nodes that name none. Any thread may add nodes."""

    def __init__(self, environment: str, on_error: Any) -> None:
        self.environment = environment
        self._on_error = on_error
        self._nodes: list[SourceNode | StageNode] = []
        self._names: set[str] = set()
        self._lock = threading.Lock()

    @property
    def nodes(self) -> list[SourceNode | StageNode]:
        """A copy; a node stands behind its inputs."""
        with self._lock:
            return list(self._nodes)

    def add(self, node: SourceNode | StageNode) -> None:
        with self._lock:
            self._nodes.append(node)

    def reserve_name(self, name: str | None, default: str) -> str:
        """``name``, or ``default`` with a number when it is taken. Raises :class:`InvalidRequest` when ``name`` is."""
        with self._lock:
            if name is not None and name in self._names:
                raise InvalidRequest(f"the environment '{self.environment}' has a stage '{name}' already", param="name")
            base = free = name or default
            number = 1
            while free in self._names:
                number += 1
                free = f"{base}-{number}"
            self._names.add(free)
            return free

    def policy(self, on_error: Any, stage: str) -> Policy:
        """``on_error`` of the node ``stage``; ``None`` means the policy of the environment."""
        return policy_of(self._on_error if on_error is None else on_error, stage)
