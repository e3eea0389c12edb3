"""The framework's faults of a body as our errors."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from sage.errors import InvalidRequest, SageError


def body_fault(exc: HTTPException) -> SageError:
    """Our error for the one that the framework raises when it cannot read a body."""
    if isinstance(exc.__cause__, SageError):
        return exc.__cause__
    if isinstance(exc.__cause__, UnicodeDecodeError | RecursionError):
        return InvalidRequest("the body is not JSON", code="invalid_json")
    return InvalidRequest(str(exc.detail))
