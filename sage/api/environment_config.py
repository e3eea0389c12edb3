"""The configuration of an environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from sage.errors import InvalidRequest
from sage.kernels.runtime.streams.error_policy import policy_of

_DEFAULTS: dict[str, Any] = {
    "discovery": "",  # the board of this machine
    "queue_size": 1000,
    "on_error": "fail",
    "grace": 10.0,
    "jobs": None,
    "ray": {},
}


def environment_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the defaults of what it leaves out. Raises :class:`InvalidRequest` for a setting that does not
    exist or a value that cannot be."""
    for name in config:
        if name not in _DEFAULTS:
            nearest = difflib.get_close_matches(str(name), _DEFAULTS, 1)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else f"; there are: {', '.join(_DEFAULTS)}"
            raise InvalidRequest(f"an environment has no setting '{name}'{hint}", param=str(name))
    size, grace = config.get("queue_size", 1), config.get("grace", 0.0)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidRequest(f"queue_size must be a whole number from 1, not {size!r}", param="queue_size")
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < float("inf"):
        raise InvalidRequest(f"grace must be seconds from 0, not {grace!r}", param="grace")
    if (jobs := config.get("jobs")) is not None and not callable(getattr(jobs, "submit", None)):
        raise InvalidRequest(f"jobs must be a JobsClient or have its method submit, not {jobs!r}", param="jobs")
    policy_of(config.get("on_error", "fail"), "the environment")
    return _DEFAULTS | dict(config)


def board_address(discovery: Any) -> str | None:
    """The address of the board for the setting ``discovery``. The default is a file in the data directory; ``None``
    means that nothing is announced."""
    if discovery != "":
        return None if discovery is None else str(discovery)
    data_dir = os.environ.get("SAGE_DATA_DIR") or platformdirs.user_data_dir("sage", appauthor=False)
    return str(Path(data_dir) / "services.sqlite")
