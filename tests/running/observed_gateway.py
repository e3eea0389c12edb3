"""The `sage` command with a window: at SIGUSR1 it adds a line of JSON to the file that OBSERVATIONS names.

It tells how many tasks the event loop has, how many objects only the collector of cycles could free, since the start,
and of which types most of those are that waited for it now.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path

from sage.middleware.cli.main import main


def tell(*_: object) -> None:
    tasks = len(asyncio.all_tasks())  # Python runs this on the main thread, within the running loop
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    types = Counter(f"{type(found).__module__}.{type(found).__qualname__}" for found in gc.garbage)
    gc.garbage.clear()
    gc.collect()
    garbage = sum(generation["collected"] for generation in gc.get_stats())
    seen = {"tasks": tasks, "garbage": garbage, "types": dict(types.most_common(40))}
    with Path(os.environ["OBSERVATIONS"]).open("a") as file:
        file.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    main()
