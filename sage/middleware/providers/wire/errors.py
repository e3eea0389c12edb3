"""Errors of upstreams as errors of ours: the one mapping from an upstream's status."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Collection, Mapping
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

CREDENTIAL_REFUSED = "upstream_credential_refused"
"""The code of an error that is about our key."""
_SECRET = re.compile(r"\b(?:sk|pk|key|Bearer)[-_ ][A-Za-z0-9_\-*.]{6,}")
_MAX_MESSAGE = 2000
_LONGEST_WAIT = 86400.0
_ERROR_OF_STATUS: dict[int, type[SageError]] = {
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


def upstream_error(
    provider: str, status: int, body: Any, headers: Mapping[str, str], secrets: Collection[str] = ()
) -> SageError:
    """Our error for an upstream's ``status`` and parsed ``body``, which may be anything.

    The upstream's 401 and 403 are about *our* key, so they become a 502, without the upstream's text, which may quote
    the key. 429 and 503 keep ``Retry-After``. Our ``secrets`` are removed from the upstream's text.
    """
    if status in (401, 403, 407):
        return UpstreamFailed(
            f"the provider '{provider}' refused the gateway's own credential (status {status}); "
            f"an administrator has to check llm.providers.{provider}.api_key",
            code=CREDENTIAL_REFUSED,
        )
    message, param, code = _detail(body, secrets)
    text = f"the provider '{provider}' answered {status}" + (f": {message}" if message else "")
    kind = _ERROR_OF_STATUS.get(status, UpstreamFailed)
    if kind in (RateLimited, Unavailable):
        return kind(text, retry_after=retry_after(headers), code=code)
    return kind(text, param=param, code=code)


def _detail(body: Any, secrets: Collection[str]) -> tuple[str, str | None, str | None]:
    """Message, param and code from the shapes in which servers report errors."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        message = error.get("message") or error.get("detail") or error.get("msg") or ""
        param, code = error.get("param"), error.get("code")
    else:
        message, param, code = error if isinstance(error, str) else "", None, None
    return _clean(str(message), secrets)[:_MAX_MESSAGE], _short(param, secrets), _short(code, secrets)


def _clean(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return _SECRET.sub("[key]", text)


def _short(value: Any, secrets: Collection[str]) -> str | None:
    return _clean(value, secrets) if isinstance(value, str) and len(value) <= 200 else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from ``Retry-After`` as seconds or as a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After") or headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), _LONGEST_WAIT) if math.isfinite(seconds) else None
