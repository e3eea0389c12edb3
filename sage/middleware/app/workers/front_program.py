"""What the Python of a front runs: :func:`sage.middleware.app.workers.front.main`, which it loads quickly."""

from __future__ import annotations

import sys

from sage.middleware.app.loading import quick_loading

with quick_loading():
    from sage.middleware.app.workers.front import main

if __name__ == "__main__":
    main(sys.argv[1:])
