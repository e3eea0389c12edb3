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
from sage.middleware.providers.wire.json_values import objects

CREDENTIAL_REFUSED = "upstream_credential_refused"
"""The code of an error that is about our key."""
_SECRET = re.compile(r"\b(?:sk|pk|key|Bearer)[-_ ][A-Za-z0-9_\-*.]{6,}")
_MAX_MESSAGE = 2000
_LONGEST_WAIT = 86400.0
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
_UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|seconds|sec|s|min|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_TEXT_NAMES = ("message", "detail", "msg", "error", "errors", "error_message", "error_msg", "title")
"""Where servers put the text of an error, the most telling first."""
_DEEPEST, _MOST_TEXTS = 4, 8
"""Of lists and objects in an error's text: how deep they may lie, and how many are read."""
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

_NAMES_OF_STATUS = {
    400: "invalid_request_error invalid_request bad_request badrequesterror invalid_argument failed_precondition "
    "out_of_range validation_error invalid_value context_length_exceeded string_above_max_length "
    "exceed_context_size_error content_filter content_policy_violation unsupported_parameter unsupported_value",
    401: "invalid_api_key authentication_error invalid_authentication unauthenticated unauthorized autherror",
    403: "permission_error permission_denied permission_denied_error forbidden",
    404: "not_found not_found_error notfounderror model_not_found",
    408: "request_timeout",
    409: "conflict conflict_error already_exists",
    413: "request_too_large payload_too_large",
    429: "rate_limit_exceeded rate_limit_error rate_limit rate_limited rate_limit_reached ratelimiterror "
    "too_many_requests resource_exhausted insufficient_quota quota_exceeded throttling throttlingexception "
    "exceeded_current_quota_error requests tokens",
    501: "not_implemented unimplemented",
    503: "overloaded_error overloaded server_overloaded engine_overloaded engine_overloaded_error unavailable "
    "unavailable_error service_unavailable service_unavailable_error model_overloaded",
    504: "timeout timeout_error deadline_exceeded gateway_timeout",
}
_STATUS_OF_NAME = {name: status for status, names in _NAMES_OF_STATUS.items() for name in names.split()}
"""The status that goes with a vendor's ``code``, ``status`` or ``type`` of an error, in small letters.

Sources: the error pages of OpenAI (whose 429 has the type ``requests`` or ``tokens``), Anthropic, Moonshot and
DashScope; ``google.rpc.Code``; the types of vLLM and llama.cpp.
"""


def upstream_error(
    provider: str, status: int, body: Any, headers: Mapping[str, str], secrets: Collection[str] = ()
) -> SageError:
    """Our error for an upstream's ``status`` and parsed ``body``, which may be anything.

    The upstream's 401 and 403 are about *our* key, so they become a 502, without the upstream's text, which may quote
    the key. 429 and 503 keep ``Retry-After``. Our ``secrets`` are removed from the upstream's text.
    """
    error = _error_of(provider, status, body, headers, secrets)
    error.upstream_status = status
    return error


def _error_of(provider: str, status: int, body: Any, headers: Mapping[str, str], secrets: Collection[str]) -> SageError:
    if status == 407:
        return UpstreamFailed(
            f"the proxy of the provider '{provider}' asks for a name and a password, or refused them (status 407); "
            f"an administrator has to check llm.providers.{provider}.proxy",
            code="proxy_refused",
        )
    if status in (401, 403):
        return UpstreamFailed(
            f"the provider '{provider}' refused the gateway's own credential (status {status}); "
            f"an administrator has to check llm.providers.{provider}.api_key",
            code=CREDENTIAL_REFUSED,
        )
    message, param, code = _detail(body, secrets)
    text = f"the provider '{provider}' answered {status}" + (f": {message}" if message else "")
    kind = _ERROR_OF_STATUS.get(status, UpstreamFailed)
    if kind in (RateLimited, Unavailable):
        return kind(text, retry_after=retry_after(headers, body), code=code)
    return kind(text, param=param, code=code)


def reported_error(answer: Mapping[str, Any]) -> Any | None:
    """What ``answer`` reports as its error; ``None`` if it has none, or one that says nothing.

    Some servers send ``"error": ""``, ``{}`` or ``{"message": "", "code": null}`` with every good answer.
    """
    error = answer.get("error")
    if not error and "error" in (answer.get("object"), answer.get("type")) and "choices" not in answer:
        error = {name: value for name, value in answer.items() if name != "error"}  # Mistral's shape, and old vLLM's
    if not error or (isinstance(error, dict) and not any(error.values())):
        return None
    return error


def error_of_choices(choices: Any) -> Any | None:
    """What one of ``choices`` reports as its error (OpenRouter); ``None`` if none does.

    A choice that ends with the reason ``error`` is cut short, also if nothing says why.
    """
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        if "error" in choice and (error := reported_error(choice)) is not None:
            return error
        if choice.get("finish_reason") == "error":
            return {"message": "the upstream failed in the middle of its answer"}
    return None


def first_error(body: Any) -> Any:
    """The first of a list of errors, as Google's servers send it; ``body`` itself if it is no such list."""
    if isinstance(body, list):
        return next((item for item in body if isinstance(item, dict) and "error" in item), body)
    return body


def status_of_error(error: Any) -> int:
    """The status of an error that came without one, inside an answer of status 200; 502 if it does not tell.

    It is a number in ``code`` or ``status``, or one of the names of :data:`_STATUS_OF_NAME` there or in ``type``.
    """
    if not isinstance(error, dict):
        return 502
    for field in ("code", "status", "status_code", "type"):
        value = error.get(field)
        if isinstance(value, str) and not value.isdecimal():
            status = _STATUS_OF_NAME.get(value.strip().lower())
        else:
            status = _error_status(value)
        if status is not None:
            return status
    return 502


def _error_status(value: Any) -> int | None:
    number = int(value) if isinstance(value, int | float | str) and len(str(value)) < 8 else 0
    return number if 400 <= number <= 599 else None


def _detail(body: Any, secrets: Collection[str]) -> tuple[str, str | None, str | None]:
    """Message, param and code from the shapes in which servers report errors."""
    body = first_error(body)
    error = (reported_error(body) or body) if isinstance(body, dict) else body
    message, param, code = _text_of(error), None, None
    if isinstance(error, dict):
        param, code = error.get("param"), error.get("code")
    return _clean(message, secrets)[:_MAX_MESSAGE], _short(param, secrets), _short(code, secrets)


def _text_of(error: Any, depth: int = 0) -> str:
    """The text in ``error``: it is the text, or has it under one of the usual names, or is a list of such."""
    if isinstance(error, str):
        return error
    if depth > _DEEPEST:
        return ""
    if isinstance(error, list):
        return "; ".join(text for item in error[:_MOST_TEXTS] if (text := _text_of(item, depth + 1)))
    if not isinstance(error, dict):
        return ""
    text = next((text for name in _TEXT_NAMES if (text := _text_of(error.get(name), depth + 1))), "")
    location = error.get("loc")  # FastAPI's: where in the request the fault is
    if text and isinstance(location, list):
        text = f"{'.'.join(str(step) for step in location)}: {text}"
    metadata = error.get("metadata")  # OpenRouter's: what its own upstream said
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f"{text}: {raw}" if text and isinstance(raw, str) and raw else text


def _clean(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[key]")
    return _SECRET.sub("[key]", text)


def _short(value: Any, secrets: Collection[str]) -> str | None:
    return _clean(value, secrets) if isinstance(value, str) and len(value) <= 200 else None


def retry_after(headers: Mapping[str, str], body: Any = None) -> float | None:
    """The seconds that an upstream asks to wait; ``None`` if it does not say.

    They are in ``retry-after-ms`` (OpenAI, Azure), in ``Retry-After`` as seconds, as a date (RFC 9110, 10.2.3) or as a
    duration (``14s``, ``1m30s``), or in a ``RetryInfo`` of the error in ``body`` (Google).
    """
    for name in _MILLISECONDS:
        seconds = _duration(f"{headers.get(name, '')}ms")
        if seconds is not None:
            return seconds
    value = headers.get("Retry-After") or headers.get("retry-after") or _retry_delay(body)
    if not value:
        return None
    seconds = _duration(value)
    if seconds is not None:
        return seconds
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(0.0, seconds), _LONGEST_WAIT) if math.isfinite(seconds) else None


def _duration(text: str) -> float | None:
    """The seconds of a duration as Go writes it (``1m30.5s``); ``None`` if ``text`` is none."""
    text = "".join(text.lower().split())
    if not _DURATION.fullmatch(text):
        return None
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    return min(seconds, _LONGEST_WAIT)


def _retry_delay(body: Any) -> str | None:
    """``retryDelay`` of a ``google.rpc.RetryInfo``."""
    error = first_error(body)
    error = error.get("error") if isinstance(error, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in objects(details):
        delay = detail.get("retryDelay")
        if isinstance(delay, str):
            return delay
    return None
