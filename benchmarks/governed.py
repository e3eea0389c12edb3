"""Limits and budgets that every call meets and none reaches, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench import Bench, Figure, OfServers
from subjects import Subject
from wire import PUBLIC_MODEL, Ask

_CONNECTIONS = 64
_LIMITS = {"rpm": 10**9, "tpm": 10**12, "concurrent": 10**6}
_PRICE = {"input": 1, "output": 4}


def govern(sections: dict[str, Any]) -> None:
    """Puts into a configuration limits and budgets on the user and on the model, and a price."""
    model = sections["llm"]["models"][PUBLIC_MODEL]
    model["deployments"][0]["price"] = _PRICE
    model |= {"limits": _LIMITS, "budget": {"tokens": 10**15, "window": "day"}}
    sections["auth"] = {"roles": {"user": {"limits": _LIMITS}}}
    sections["budgets"] = {"users": {"bench": {"usd": 10**8, "window": "month"}}}


@dataclass(frozen=True)
class Governed(OfServers):
    """Limits and budgets on, beside the gateway without them; its key check and ledger are always on."""

    name: str = "governed"
    about: str = f"limits and budgets on the user and the model, {_CONNECTIONS} connections: CPU time a request"
    figures: tuple[Figure, ...] = (Figure("governed_us", "CPU µs a request"),)
    rounds: int = 15

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        count = bench.requests(1_500, subject, _CONNECTIONS)
        cpu, _ = await bench.load(subject, _CONNECTIONS, count, Ask())
        return {"governed_us": cpu / count * 1e6}

    def takes(self, subject: Subject) -> bool:
        return subject.name == "gateway"
