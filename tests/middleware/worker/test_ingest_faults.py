"""What an ingest job does when the worker itself fails at a source."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar, cast

from sage.middleware.worker.kinds.ingest import IngestJob
from sage.middleware.worker.run import JobItem


def test_a_source_at_which_the_worker_itself_fails_is_one_failed_source(tmp_path: Path) -> None:
    """Its line has what the others have, so what reads the lines later knows whose it is."""

    class BrokenRun:
        params: ClassVar[dict[str, Any]] = {
            **{"format": None, "chunk_size": 100, "overlap": 0, "encoding": None, "metadata": {}},
            **{"url_hosts": [], "max_file": 1000},
        }

        def source(self, number: int) -> Any:
            raise [RuntimeError("a bug"), TimeoutError()][number]

    for number, code in enumerate(("internal_error", "timeout")):
        item = JobItem(number, {"source": "file-1", "path": "a.txt", "store": {"ticket": "t"}})
        with IngestJob(cast(Any, BrokenRun()), tmp_path) as job:
            result = asyncio.run(job.ingest(item))
        told = {name: result.line[name] for name in ("source", "ticket", "outcome")}
        assert told == {"source": "file-1", "ticket": "t", "outcome": "failed"}
        assert (result.ok, result.line["error"]["code"]) == (False, code)
