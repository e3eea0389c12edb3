"""The only module that imports aiokafka: late, since it needs an extra."""

from __future__ import annotations

from typing import Any

from sage.errors import MissingExtra


def load_aiokafka() -> Any:
    try:
        import aiokafka
        import aiokafka.errors
    except ImportError:
        raise MissingExtra("a Kafka source", "kafka") from None
    return aiokafka
