"""What an upstream's refusal means to our caller: the one mapping from its status to our errors."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

from sage.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    RateLimited,
    SageError,
    Unavailable,
    UpstreamFailed,
)

_SECRET = re.compile(r"\b(?:sk|pk|key|Bearer)[-_ ][A-Za-z0-9_\-*.]{6,}")
_MAX_MESSAGE = 2000
_OURS: dict[int, type[SageError]] = {
    400: InvalidRequest,
    404: NotFound,
    408: DeadlineExceeded,
    409: Conflict,
    413: PayloadTooLarge,
    415: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    501: InvalidRequest,
    503: Unavailable,
    504: DeadlineExceeded,
    529: Unavailable,
}


def refusal(provider: str, status: int, body: Any, headers: Mapping[str, str]) -> SageError:
    """The error of ours for an upstream's ``status`` and parsed ``body`` (anything).

    The upstream's 401 and 403 speak of *our* key, so they are a 502 here, without the upstream's text, which may quote
    the key. 429 and 503 keep ``Retry-After``.
    """
    if status in (401, 403, 407):
        return UpstreamFailed(
            f"the provider '{provider}' refused the gateway's own credential (status {status}); "
            f"an administrator has to check llm.providers.{provider}.api_key",
            code="upstream_credential_refused",
        )
    message, param, code = _detail(body)
    text = f"the provider '{provider}' answered {status}" + (f": {message}" if message else "")
    kind = _OURS.get(status, UpstreamFailed)
    if kind in (RateLimited, Unavailable):
        return kind(text, retry_after=_retry_after(headers), code=code)
    return kind(text, param=param, code=code)


def _detail(body: Any) -> tuple[str, str | None, str | None]:
    """Message, param and code from the shapes in which servers report errors."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error.get("msg") or ""
        param, code = error.get("param"), error.get("code")
    else:
        message, param, code = error if isinstance(error, str) else "", None, None
    text = _SECRET.sub("[key]", str(message))[:_MAX_MESSAGE]
    return text, param if isinstance(param, str) else None, code if isinstance(code, str) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from ``Retry-After`` as seconds or as a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After") or headers.get("retry-after")
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
