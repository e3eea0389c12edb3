"""The `sage` command with a window: at SIGUSR1 it adds a line of JSON to the file that OBSERVATIONS names.

It tells how many tasks the event loop has, how many objects only the collector of cycles could free (which they then
are), and of which types most of these are.
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
    seen = {"tasks": tasks, "garbage": len(gc.garbage), "types": dict(types.most_common(40))}
    gc.garbage.clear()
    gc.collect()
    with Path(os.environ["OBSERVATIONS"]).open("a") as file:
        file.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    main()
