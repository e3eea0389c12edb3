"""A quarter of the cases that schemathesis makes of each operation's schema, for ``make check``; it loads this file."""

from __future__ import annotations

from collections import Counter
from typing import Any

import schemathesis

WHOLE = 8
"""Of each operation at least so many, which is all of a simple one."""
_seen: Counter[str] = Counter()


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Whether a case is sent. Random ones are few in any case."""
    if case.meta is None or case.meta.phase.name.value != "coverage":
        return True
    number = _seen[case.operation.label]
    _seen[case.operation.label] += 1
    return number < WHOLE or number % 4 == 0
