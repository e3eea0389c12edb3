"""The plan of an environment's pipelines: the nodes that streams have added, under names of their own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from sage.errors import Conflict, InvalidRequest
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

    def check(self) -> None:
        """Raises :class:`InvalidRequest` when it cannot run yet."""
        if unfilled := [n.name for n in self.nodes if isinstance(n, StageNode) and n.is_feedback and not n.inputs]:
            raise InvalidRequest(
                f"the future stream '{unfilled[0]}' of the environment '{self.environment}' gets no records yet: "
                "stream.fill_future(future) names the stream that it repeats"
            )

    def fill(self, future: StageNode, inputs: Sequence[SourceNode | StageNode]) -> None:
        """Makes the feedback node ``future`` read ``inputs``. Raises :class:`Conflict` when it has inputs already."""
        with self._lock:
            if future.inputs:
                raise Conflict(f"the future stream '{future.name}' is filled already")
            future.inputs = inputs

    def add(self, node: SourceNode | StageNode) -> None:
        with self._lock:
            self._nodes.append(node)

    def remove(self, node: StageNode) -> None:
        """Takes back a node that nothing reads; its name is free again."""
        with self._lock:
            self._nodes.remove(node)
            self._names.discard(node.name)

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
