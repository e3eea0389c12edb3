"""The kinds of jobs: the name, and the module with its ``async def run(run: Run) -> Outcome``, imported when needed."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable

from sage.middleware.worker.lease import JobFailed
from sage.middleware.worker.run import Outcome, Run

Kind = Callable[[Run], Awaitable[Outcome]]
KINDS: dict[str, str] = {
    "batch": "sage.middleware.worker.kinds.batch",
    "embed": "sage.middleware.worker.kinds.embed",
    "evaluate": "sage.middleware.worker.kinds.evaluate",
    "generate": "sage.middleware.worker.kinds.generate",
    "ingest": "sage.middleware.worker.kinds.ingest",
    "reembed": "sage.middleware.worker.kinds.reembed",
    "response": "sage.middleware.worker.kinds.response",
    "snapshot": "sage.middleware.worker.kinds.snapshot",
}


def find_kind(name: str) -> Kind:
    """Raises :class:`JobFailed` for a kind that this version does not have."""
    if name not in KINDS:
        raise JobFailed(
            f"this worker knows no jobs of the kind '{name}'; its version may be an older one", code="unknown_kind"
        )
    kind: Kind = importlib.import_module(KINDS[name]).run
    return kind
