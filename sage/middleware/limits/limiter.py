"""Makes the limiter that the settings ask for, and what counts logins beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage.middleware.limits.local_limiter import Limiter, LocalLimiter
from sage.middleware.settings.limits import LimitsSettings

if TYPE_CHECKING:
    from sage.middleware.limits.login_counts import LoginCounts


def make_limiter(settings: LimitsSettings) -> Limiter:
    """One that counts in this process, or in Redis. Nothing runs yet."""
    if settings.redis is None:
        return LocalLimiter()
    from sage.middleware.limits.redis_link import RedisServer
    from sage.middleware.limits.shared_limiter import SharedLimiter

    return SharedLimiter(RedisServer(settings.redis.get_secret_value()))


def make_login_counts(limiter: Limiter, bounds: Sequence[tuple[int, float]]) -> LoginCounts | None:
    """What counts logins within ``bounds`` over the connection of ``limiter``; ``None`` for one that has
    none."""
    if isinstance(limiter, LocalLimiter):
        return None
    from sage.middleware.limits.login_counts import LoginCounts
    from sage.middleware.limits.shared_limiter import SharedLimiter

    return LoginCounts(limiter, bounds) if isinstance(limiter, SharedLimiter) else None
