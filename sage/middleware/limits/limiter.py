"""Makes the limiter that the settings ask for."""

from __future__ import annotations

from sage.middleware.limits.local_limiter import Limiter, LocalLimiter
from sage.middleware.settings.limits import LimitsSettings


def make_limiter(settings: LimitsSettings) -> Limiter:
    """One that counts in this process, or in Redis. Nothing runs yet."""
    if settings.redis is None:
        return LocalLimiter()
    from sage.middleware.limits.redis_link import RedisServer
    from sage.middleware.limits.shared_limiter import SharedLimiter

    return SharedLimiter(RedisServer(settings.redis.get_secret_value()))
