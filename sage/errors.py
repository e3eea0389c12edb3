"""The one tree of errors, on top of which sits the one HTTP handler.

Every error that a user can meet is a :class:`SageError`: it carries the HTTP status, the ``type`` and ``code`` of the
envelope ``{"error": {"message", "type", "param", "code"}}``, and a message that names the thing, what is wrong with it
and what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SageError(Exception):
    """Base of every error of ours.

    ``param`` names the field at fault, ``code`` a machine-readable reason, ``retry_after`` the seconds after which
    another try makes sense (sent as ``Retry-After``).
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    default_code: ClassVar[str] = "internal_error"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Further headers of the answer that reports it."""
    upstream_status: int | None = None
    """The status with which an upstream reported it; ``None`` if no upstream did."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after

    def envelope(self) -> dict[str, Any]:
        """The body that answers a request with this error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(SageError):
    """The request is malformed or asks for something impossible (400)."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class Unsupported(InvalidRequest):
    """The request asks for something that this vendor or engine cannot do, though another may (400)."""

    default_code = "unsupported_field"


class AuthenticationFailed(SageError):
    """No credential, or one that is wrong, expired or revoked (401)."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_credential"


class PermissionDenied(SageError):
    """The credential is valid but does not allow this (403)."""

    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(SageError):
    """The thing named does not exist (404)."""

    status = 404
    type = "not_found_error"
    default_code = "not_found"


class MethodNotAllowed(SageError):
    """The path exists, the method does not (405)."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RequestTimeout(SageError):
    """The rest of the request did not come in time (408)."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class Conflict(SageError):
    """The thing exists already, or its state forbids this (409)."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class PayloadTooLarge(SageError):
    """The body is over ``api.max_body_bytes`` (413)."""

    status = 413
    type = "invalid_request_error"
    default_code = "payload_too_large"


class RateLimited(SageError):
    """Too many requests, here or upstream (429, with ``Retry-After``)."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limited"

    def __init__(self, message: str, *, retry_after: float | None = 1.0, **kwargs: Any) -> None:
        super().__init__(message, retry_after=1.0 if retry_after is None else retry_after, **kwargs)


class UpstreamFailed(SageError):
    """An upstream answered with a failure or with nonsense (502)."""

    status = 502
    type = "upstream_error"
    default_code = "upstream_failed"


class Unavailable(SageError):
    """Not ready or overloaded (503, with ``Retry-After``)."""

    status = 503
    type = "unavailable_error"
    default_code = "unavailable"

    def __init__(self, message: str, *, retry_after: float | None = 1.0, **kwargs: Any) -> None:
        super().__init__(message, retry_after=1.0 if retry_after is None else retry_after, **kwargs)


class DeadlineExceeded(SageError):
    """A time limit ran out (504)."""

    status = 504
    type = "timeout_error"
    default_code = "deadline_exceeded"


class CallFailed(SageError):
    """A gateway that this program called refused, or did not answer: then ``answer_status`` is ``None``."""

    default_code = "call_failed"

    def __init__(self, message: str, *, answer_status: int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.answer_status = answer_status


class ConfigError(SageError):
    """The configuration is wrong: reported at start in one line, exit code 1."""

    default_code = "config_error"


class MissingExtra(ConfigError):
    """A feature needs an extra that is not installed."""

    default_code = "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'intellistream-sage-middleware[{extra}]'")
        self.extra = extra
