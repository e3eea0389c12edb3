"""Prices that vendors publish, from the package genai-prices, in a process of its own.

The package takes 27 MB and half a second to import and holds the interpreter's lock meanwhile, so no gateway loads it:
:func:`describe_all` runs this module as a program. It reads a list of ``[provider id, address, model]`` as JSON on its
standard input, and writes a list with the price of each, or null, for
:func:`sage.middleware.usage.prices.published_price`.

The data are those that came with the package; nothing is fetched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import sage.errors

_WITHIN = 60.0
"""Seconds. It takes about one on an idle machine."""
_COMMAND = (sys.executable, "-P", "-m", "sage.middleware.usage.vendor_prices")

Question = tuple[str | None, str | None, str]
"""The id of a provider, its address, and a model's name there; the address goes first where the package knows it."""


def describe_all(questions: Sequence[Question]) -> list[Any]:
    """The price of each model, or ``None``. Blocks; raises :class:`OSError` and :class:`ValueError` when the process
    fails."""
    root = str(Path(sage.errors.__file__).parents[1])
    variables = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        process = subprocess.run(  # noqa: S603 (our own module)
            _COMMAND,
            input=json.dumps(questions).encode(),
            capture_output=True,
            env={**variables, "PYTHONPATH": paths},
            timeout=_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise OSError(f"it took longer than {_WITHIN:g} s") from exc
    if process.returncode:
        raise OSError(process.stderr.decode("utf-8", "replace").strip()[-500:] or f"status {process.returncode}")
    answers = json.loads(process.stdout)
    if not isinstance(answers, list) or len(answers) != len(questions):
        raise ValueError("it gave no price or null for each model")
    return answers


def _describe(question: Question) -> list[dict[str, Any]] | None:
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import ModelPrice

    provider_id, address, model = question
    snapshot = get_snapshot()
    for wanted in ({"provider_api_url": address}, {"provider_id": provider_id}):
        if None in wanted.values():
            continue
        found = {"provider_id": None, "provider_api_url": None, **wanted}
        try:
            _, info = snapshot.find_provider_model(model, None, **found)
        except LookupError:
            continue
        if isinstance(info.prices, ModelPrice):
            return [{"parts": _parts(info.prices)}]
        return [{**_condition(each.constraint), "parts": _parts(each.prices)} for each in info.prices]
    return None


def _condition(constraint: Any) -> dict[str, Any]:
    from genai_prices.types import StartDateConstraint

    if constraint is None:
        return {}
    if isinstance(constraint, StartDateConstraint):
        return {"since": constraint.start_date.isoformat()}
    return {"begin": _second(constraint.start_time), "end": _second(constraint.end_time)}


def _second(moment: time) -> float:
    """The seconds since midnight, UTC."""
    if moment.tzinfo is not None:
        moment = datetime.combine(datetime(2000, 1, 1), moment).astimezone(UTC).time()
    return moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6


def _parts(prices: Any) -> list[dict[str, Any]]:
    """The most special units first, each with the indexes of those that lie within it."""
    from genai_prices.decompose import is_descendant_or_self
    from genai_prices.types import TieredPrices
    from genai_prices.units import _get_registry

    registry = _get_registry()
    priced = [
        (registry.unit_for_price_key(key), value)
        for key, value in vars(prices).items()
        if value is not None and key in registry._all_price_keys
    ]
    priced.sort(key=lambda each: (-len(each[0].dimensions), each[0].usage_key))
    parts: list[dict[str, Any]] = []
    for place, (unit, value) in enumerate(priced):
        tiers = value.tiers if isinstance(value, TieredPrices) else []
        parts.append(
            {
                "unit": unit.usage_key,
                "per": unit.per,
                "usd": str(value.base if isinstance(value, TieredPrices) else value),
                "tiers": [[tier.start, str(tier.price)] for tier in tiers],
                "within": [i for i, (other, _) in enumerate(priced[:place]) if is_descendant_or_self(unit, other)],
            }
        )
    return parts


def main() -> None:
    """Answers the questions on standard input."""
    json.dump([_describe(tuple(question)) for question in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
