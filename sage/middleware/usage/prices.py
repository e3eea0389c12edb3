"""What calls cost, in whole nano-dollars.

Every part of a price has a *unit*, such as ``input_tokens`` or ``cache_read_tokens``. A unit may lie within another:
cached tokens are input tokens, and are paid once, at their own rate. So of each unit only what no more special priced
unit has taken is charged, as genai-prices does it. A rate may have tiers; the size of the whole prompt decides which
one holds, for all tokens of the call.

The parts of a cost are added up exactly, and the sum is rounded once, to the nearest nano-dollar, halves up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sage.middleware.settings.usage import IMAGE_SIZE, UNMEASURED, PriceSettings, image_unit
from sage.middleware.usage.records import NANO, priced_counts

_ALWAYS_COUNTED = frozenset({"requests", "milliseconds"})
_SCALE = 9 * 10**9
"""The least common multiple of all numbers of units that rates are stated for (1, 60, 1,000, 3,600, 10**6, 10**9)."""
_MILLION = 10**6
_DAY = 86400


class Tier(NamedTuple):
    """A rate that holds for prompts of more than ``above`` tokens."""

    above: int
    rate: int


class Part(NamedTuple):
    """The price of one unit. Rates are in nano-dollars for :data:`_SCALE` units."""

    unit: str
    rate: int
    tiers: tuple[Tier, ...] = ()
    within: tuple[int, ...] = ()
    """The earlier parts whose units lie within this one."""

    def rate_for(self, prompt_tokens: int) -> int:
        """The rate that holds for a prompt of that size."""
        rate = self.rate
        for tier in self.tiers:
            if prompt_tokens > tier.above:
                rate = tier.rate
        return rate


def rate(usd: Decimal, units: int) -> int:
    """``usd`` for so many ``units`` as a :class:`Part` states it; a fraction beyond it is rounded up."""
    numerator, denominator = usd.as_integer_ratio()
    return -(-numerator * NANO * _SCALE // (denominator * units))


class PriceCondition(NamedTuple):
    """When a price holds: from a day on (Unix seconds), or at a time of each day (seconds since midnight, UTC)."""

    since: float | None = None
    begin: float | None = None
    end: float | None = None

    def holds(self, time: float) -> bool:
        if self.since is not None and time < self.since:
            return False
        if self.begin is None or self.end is None:
            return True
        second = time % _DAY
        if self.end < self.begin:
            return second >= self.begin or second < self.end
        return self.begin <= second < self.end


class DearestRates(NamedTuple):
    """The dearest rates of a token of a prompt and of an answer, of a request and of a millisecond, as a
    :class:`Part` states them."""

    token: int
    new_token: int
    request: int
    millisecond: int


class MostRates(NamedTuple):
    """The dearest rates of a price that are always the same, as a :class:`Part` states them."""

    token: int
    new_token: int
    fixed: int
    """Of a request, whatever it has."""

    def most(self, prompt_tokens: int, output_tokens: int) -> int:
        """As :meth:`Price.most`."""
        return -(-(self.token * prompt_tokens + self.new_token * output_tokens + self.fixed) // _SCALE)


class TokenRates(NamedTuple):
    """The rates of a price that has no others, and always holds. ``None`` for those that it does not tell from the
    rest of the prompt or of the answer."""

    prompt: int
    answer: int
    cached: int | None
    reasoning: int | None


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model. Of several sets of parts the last holds whose condition does, else the first."""

    parts: tuple[tuple[PriceCondition | None, tuple[Part, ...]], ...]
    _always: DearestRates | None = field(init=False, repr=False, compare=False)
    """``None`` where the dearest rates depend on the time or on the prompt."""
    _tokens: TokenRates | None = field(init=False, repr=False, compare=False)
    """``None`` where it depends on more than on tokens."""

    def __post_init__(self) -> None:
        parts = self.parts[0][1]
        is_constant = len(self.parts) == 1 and not any(part.tiers for part in parts)
        object.__setattr__(self, "_always", _dearest(parts, 0) if is_constant else None)
        object.__setattr__(self, "_tokens", _token_rates(parts) if is_constant else None)

    @classmethod
    def of(cls, *parts: Part) -> Price:
        """A price that always holds."""
        return cls(((None, parts),))

    def parts_at(self, time: float) -> tuple[Part, ...]:
        """The parts that hold at ``time``, in Unix seconds."""
        sets = self.parts
        if len(sets) > 1:
            for condition, parts in reversed(sets):
                if condition is None or condition.holds(time):
                    return parts
        return sets[0][1]

    def cost(self, counts: Mapping[str, int], time: float) -> int:
        """What a call that used ``counts`` of each unit costs, in nano-dollars."""
        parts = self.parts_at(time)
        prompt_tokens = counts.get("input_tokens", 0)
        charged: list[int] = []
        total = 0
        for part in parts:
            count = counts.get(part.unit, 0)
            for index in part.within:
                count -= charged[index]
            if count < 0:  # an upstream's nonsense: more cached tokens than the prompt has
                count = 0
            charged.append(count)
            if count:
                total += count * (part.rate_for(prompt_tokens) if part.tiers else part.rate)
        return (2 * total + _SCALE) // (2 * _SCALE)

    def of_call(
        self,
        prompt: int,
        cached: int,
        answer: int,
        reasoning: int,
        ms: float,
        units: Mapping[str, int] | None,
        time: float,
    ) -> int | None:
        """As :meth:`cost`, of what a :class:`~sage.middleware.usage.records.UsageRecord` says; ``cached`` tokens are
        among those of the prompt, and ``reasoning`` among those of the answer."""
        rates = self._tokens
        if units and UNMEASURED in units and not self._is_measured(units, time):
            return None
        if rates is None or units or cached > prompt or reasoning > answer:
            return self.cost(priced_counts(prompt, cached, answer, reasoning, ms, units), time)
        total = rates.prompt * prompt + rates.answer * answer
        if cached and rates.cached is not None:
            total += (rates.cached - rates.prompt) * cached
        if reasoning and rates.reasoning is not None:
            total += (rates.reasoning - rates.answer) * reasoning
        return (2 * total + _SCALE) // (2 * _SCALE)

    def _is_measured(self, units: Mapping[str, int], time: float) -> bool:
        """Whether the price is for something that was counted, though tokens were not; or for nothing."""
        parts = self.parts_at(time)
        return not parts or any(part.unit in units or part.unit in _ALWAYS_COUNTED for part in parts)

    def most_rates(self, seconds: float) -> MostRates | None:
        """The rates that :meth:`most` goes by for a call of that many seconds; ``None`` where they depend on the time
        or on the prompt."""
        rates = self._always
        if rates is None:
            return None
        milliseconds = rates.millisecond * int(seconds * 1000 + 1) if rates.millisecond else 0
        return MostRates(rates.token, rates.new_token, rates.request + milliseconds)

    def most(self, prompt_tokens: int, output_tokens: int, seconds: float, time: float) -> int:
        """What a call of that size may cost at most, whatever of it is cached, audio or reasoning."""
        rates = self._always or _dearest(self.parts_at(time), prompt_tokens)
        total = rates.token * prompt_tokens + rates.new_token * output_tokens + rates.request
        if rates.millisecond:
            total += rates.millisecond * int(seconds * 1000 + 1)
        return -(-total // _SCALE)


def _dearest(parts: Sequence[Part], prompt_tokens: int) -> DearestRates:
    """The dearest rates of ``parts`` for a prompt of that size at most."""
    token = new_token = request = millisecond = 0
    for part in parts:
        most = max(part.rate, *(tier.rate for tier in part.tiers if prompt_tokens > tier.above), 0)
        if part.unit == "requests":
            request += most
        elif part.unit == "milliseconds":
            millisecond += most
        elif part.unit.startswith("output"):
            new_token = max(new_token, most)
        elif part.unit.endswith("tokens"):
            token = max(token, most)
    return DearestRates(token, new_token, request, millisecond)


def _token_rates(parts: Sequence[Part]) -> TokenRates | None:
    rates: dict[str, int] = {}
    within: dict[str, set[str]] = {}
    for part in parts:
        rates[part.unit] = part.rate
        within[part.unit] = {parts[index].unit for index in part.within}
    cached, reasoning = rates.get("cache_read_tokens"), rates.get("output_reasoning_tokens")
    if (
        len(rates) != len(parts)
        or not rates.keys() <= {"input_tokens", "output_tokens", "cache_read_tokens", "output_reasoning_tokens"}
        or (cached is not None and within.get("input_tokens") != {"cache_read_tokens"})
        or (reasoning is not None and within.get("output_tokens") != {"output_reasoning_tokens"})
    ):
        return None
    return TokenRates(rates.get("input_tokens", 0), rates.get("output_tokens", 0), cached, reasoning)


FREE = Price.of()
"""That of a model which runs on machines of ours."""


def configured_price(settings: PriceSettings) -> Price:
    """The price that a configuration states."""
    parts: list[Part] = []

    def add(unit: str, usd: Decimal | None, units: int, *within: str) -> None:
        if usd is not None:
            inner = tuple(index for index, part in enumerate(parts) if part.unit in within)
            parts.append(Part(unit, rate(usd, units), within=inner))

    add("cache_read_tokens", settings.cached, _MILLION)
    add("output_reasoning_tokens", settings.reasoning, _MILLION)
    add("input_audio_tokens", settings.audio, _MILLION)
    add("input_image_tokens", settings.image, _MILLION)
    add("output_audio_tokens", settings.audio_output, _MILLION)
    add("input_tokens", settings.input, _MILLION, "cache_read_tokens", "input_audio_tokens", "input_image_tokens")
    add("output_image_tokens", settings.image_output, _MILLION)
    within = ("output_reasoning_tokens", "output_audio_tokens", "output_image_tokens")
    add("output_tokens", settings.output, _MILLION, *within)
    add("input_characters", settings.characters, _MILLION)
    add("input_audio_seconds", settings.per_audio_minute, 60)
    labels = sorted(settings.image_sizes, key=_imprecision)
    sizes = [image_unit(label) for label in labels]
    for number, label in enumerate(labels):
        add(sizes[number], settings.image_sizes[label], 1, *sizes[:number])
    add("images", settings.per_image, 1, *sizes)
    add("requests", settings.per_request, 1)
    add("milliseconds", settings.per_second, 1000)
    return Price.of(*parts)


def _imprecision(label: str) -> int:
    """Prices of images go before one another: for a quality and a size, for a size, for a quality."""
    return 0 if "/" in label else 1 if IMAGE_SIZE.fullmatch(label) else 2


def published_price(described: Sequence[Mapping[str, Any]]) -> Price:
    """The price that :mod:`sage.middleware.usage.vendor_prices` describes."""
    return Price(tuple((_condition(each), tuple(map(_part, each["parts"]))) for each in described))


def _condition(described: Mapping[str, Any]) -> PriceCondition | None:
    since, begin, end = described.get("since"), described.get("begin"), described.get("end")
    if since is None and begin is None:
        return None
    day = None if since is None else datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp()
    return PriceCondition(day, begin, end)


def _part(described: Mapping[str, Any]) -> Part:
    units = described["per"]
    tiers = tuple(Tier(above, rate(Decimal(usd), units)) for above, usd in described.get("tiers", ()))
    return Part(described["unit"], rate(Decimal(described["usd"]), units), tiers, tuple(described["within"]))
