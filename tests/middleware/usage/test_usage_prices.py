"""What calls cost: as genai-prices calculates it, to the nano-dollar, and as a configuration states it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.settings.usage import PriceSettings
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.prices import FREE, Price, configured_price, published_price
from sage.middleware.usage.records import priced_counts
from sage.middleware.usage.vendor_prices import describe_all

MODELS = (
    ("openai", "gpt-4o"),
    ("openai", "gpt-4o-mini"),
    ("openai", "gpt-4.1"),
    ("openai", "o3"),
    ("openai", "gpt-5"),
    ("openai", "gpt-4o-audio-preview"),
    ("openai", "gpt-3.5-turbo"),
    ("openai", "text-embedding-3-small"),
    ("anthropic", "claude-sonnet-4-5"),  # tiers
    ("anthropic", "claude-3-5-haiku-latest"),
    ("google", "gemini-2.5-pro"),  # tiers
    ("google", "gemini-2.5-flash"),  # audio
    ("google", "gemini-2.0-flash"),
    ("deepseek", "deepseek-chat"),  # cheaper at night
    ("deepseek", "deepseek-reasoner"),
    ("cohere", "command-r-plus"),
    ("cohere", "command-r"),
    ("groq", "llama-3.3-70b-versatile"),
    ("mistral", "mistral-large-latest"),
    ("moonshotai", "kimi-k2"),
    ("x-ai", "grok-4"),  # tiers
    ("openrouter", "openai/gpt-4o-mini"),
    ("perplexity", "sonar-reasoning-pro"),
)
USAGES: tuple[dict[str, int], ...] = (
    {"input_tokens": 1, "output_tokens": 1},
    {"input_tokens": 1234, "output_tokens": 567, "cache_read_tokens": 1000},
    {"input_tokens": 200_000, "output_tokens": 3, "cache_read_tokens": 7},
    {"input_tokens": 200_001, "output_tokens": 8_191, "cache_read_tokens": 150_000},
    {"input_tokens": 1_000_003, "output_tokens": 65_537, "output_reasoning_tokens": 60_000},
    {"input_tokens": 9_999, "output_tokens": 777, "input_audio_tokens": 5_000, "output_audio_tokens": 333},
    {"input_tokens": 50_000, "output_tokens": 77, "cache_write_tokens": 20_000},
)
MOMENTS = (datetime(2026, 11, 30, 3, 15, tzinfo=UTC), datetime(2026, 11, 30, 20, 45, tzinfo=UTC))


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str], Price]:
    described = describe_all([(provider, None, model) for provider, model in MODELS])
    assert None not in described
    return dict(zip(MODELS, map(published_price, described), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("provider", "model"), MODELS)
def test_costs_are_those_of_genai_prices(published: dict[tuple[str, str], Price], provider: str, model: str) -> None:
    import genai_prices

    compared = 0
    for counts in USAGES:
        for moment in MOMENTS:
            try:
                theirs = genai_prices.calc_price(
                    genai_prices.Usage(**counts), model, provider_id=provider, genai_request_timestamp=moment
                ).total_price
            except ValueError:  # it cannot tell how many of the cached tokens are sounds
                continue
            nano = int((theirs * 10**9).quantize(Decimal(1), ROUND_HALF_UP))
            assert published[provider, model].cost({**counts, "requests": 1}, moment.timestamp()) == nano
            compared += 1
    assert compared >= 8


@pytest.mark.slow
def test_what_nobody_sells_has_no_price() -> None:
    assert describe_all([("openai", None, "a-model-of-mine"), ("nobody", None, "gpt-4o")]) == [None, None]


@pytest.mark.slow
def test_an_address_that_is_known_goes_before_the_kind() -> None:
    azure, own = describe_all(
        [
            ("openai", "https://openrouter.ai/api/v1", "anthropic/claude-3.5-haiku"),
            ("openai", "http://10.0.0.1/v1", "gpt-4o"),
        ]
    )
    assert azure is not None
    assert own is not None


def test_a_configured_price_is_per_million_request_and_second() -> None:
    price = configured_price(
        PriceSettings(input=2, cached="0.5", output=10, reasoning=20, per_request="0.001", per_second="0.25")  # type: ignore[arg-type]
    )
    counts = {"input_tokens": 1000, "cache_read_tokens": 400, "output_tokens": 50, "output_reasoning_tokens": 20}
    tokens = 600 * 2000 + 400 * 500 + 30 * 10_000 + 20 * 20_000
    assert price.cost({**counts, "requests": 1, "milliseconds": 1500}, 0) == tokens + 1_000_000 + 375_000_000


def test_without_a_price_of_their_own_cached_and_reasoning_tokens_cost_as_the_others() -> None:
    price = configured_price(PriceSettings(input=1, output=3))  # type: ignore[arg-type]
    counts = {"input_tokens": 10, "cache_read_tokens": 9, "output_tokens": 4, "output_reasoning_tokens": 4}
    assert price.cost(counts, 0) == 10 * 1000 + 4 * 3000


def test_sounds_and_images_cost_what_the_configuration_says_of_them() -> None:
    price = configured_price(PriceSettings(input=1, output=2, audio=40, audio_output=80, image=10))  # type: ignore[arg-type]
    units = {"input_audio_tokens": 100, "input_image_tokens": 10, "output_audio_tokens": 5}
    cost = price.of_call(1000, 0, 50, 0, 1.0, units, 0.0)
    assert cost == 1000 * (890 * 1 + 100 * 40 + 10 * 10 + 45 * 2 + 5 * 80)
    assert price.most(1000, 50, 1.0, 0.0) >= cost
    plain = configured_price(PriceSettings(input=1, output=2))  # type: ignore[arg-type]
    assert plain.of_call(1000, 0, 50, 0, 1.0, units, 0.0) == 1000 * (1000 + 100)


def test_more_cached_tokens_than_the_prompt_has_never_cost_less_than_nothing() -> None:
    price = configured_price(PriceSettings(input=1, cached=0, output=1))  # type: ignore[arg-type]
    assert price.cost({"input_tokens": 5, "cache_read_tokens": 9}, 0) == 0


def test_half_a_nano_dollar_is_rounded_up() -> None:
    price = configured_price(PriceSettings(input="0.0005"))  # type: ignore[arg-type]
    assert [price.cost({"input_tokens": count}, 0) for count in (0, 1, 2, 3)] == [0, 1, 1, 2]


@given(
    prompt=st.integers(0, 300_000),
    cached=st.integers(0, 300_000),
    output=st.integers(0, 100_000),
    reasoning=st.integers(0, 100_000),
)
def test_no_call_costs_more_than_the_worst_case(prompt: int, cached: int, output: int, reasoning: int) -> None:
    settings = PriceSettings(input=3, cached="0.3", output=15, reasoning=20, per_request="0.01", per_second=1)  # type: ignore[arg-type]
    price = configured_price(settings)
    counts = {
        **{"input_tokens": prompt, "cache_read_tokens": min(cached, prompt), "output_tokens": output},
        **{"output_reasoning_tokens": min(reasoning, output), "requests": 1, "milliseconds": 2000},
    }
    assert price.cost(counts, 0) <= price.most(prompt, output, 2.0, 0)


def deployment(kind: str, model: str, **fields: Any) -> Any:
    endpoints = (SimpleNamespace(base_url=fields.pop("base_url", "https://api.example/v1")),)
    provider = SimpleNamespace(name=fields.pop("provider", kind), kind=kind, endpoints=endpoints)
    return SimpleNamespace(name=f"{provider.name}/{model}", model=model, price=fields.get("price"), provider=provider)


_RATE = st.none() | st.decimals(0, 1000, places=4)


@given(
    rates=st.tuples(_RATE, _RATE, _RATE, _RATE, _RATE, _RATE),
    prompt=st.integers(0, 300_000),
    cached=st.integers(0, 300_000),
    answer=st.integers(0, 300_000),
    reasoning=st.integers(0, 300_000),
    units=st.none() | st.just({"input_audio_tokens": 5}),
)
def test_a_call_costs_what_its_counts_cost(
    rates: tuple[Decimal | None, ...],
    prompt: int,
    cached: int,
    answer: int,
    reasoning: int,
    units: dict[str, int] | None,
) -> None:
    names = ("input", "cached", "output", "reasoning", "per_request", "per_second")
    price = configured_price(PriceSettings(**dict(zip(names, rates, strict=True))))
    counts = priced_counts(prompt, cached, answer, reasoning, 12.5, units)
    assert price.of_call(prompt, cached, answer, reasoning, 12.5, units, 0.0) == price.cost(counts, 0.0)


def test_a_deployments_own_price_goes_before_patterns_and_these_before_vendors() -> None:
    asked: list[Any] = []

    def describe(questions: Any) -> list[Any]:
        asked.extend(questions)
        return [[{"parts": [{"unit": "input_tokens", "per": 10**6, "usd": "9", "within": []}]}] for _ in questions]

    prices = PriceList({"east/*": PriceSettings(input=2)}, describe=describe)  # type: ignore[arg-type]
    own = deployment("openai", "m", provider="east", price=PriceSettings(input=1))  # type: ignore[arg-type]
    cases = [own, deployment("openai", "m", provider="east"), deployment("openai", "m")]
    assert [prices.is_resolved([each]) for each in cases] == [True, True, False]
    prices.load(cases)
    found = [prices.find(each)[1] for each in cases]
    assert [price and price.cost({"input_tokens": 10}, 0) for price in found] == [10_000, 20_000, 90_000]
    assert asked == [("openai", "https://api.example/v1", "m")]


@pytest.mark.parametrize("kind", ["local", "ollama", "vllm"])
def test_models_on_machines_of_ours_are_free_unless_the_configuration_says_otherwise(kind: str) -> None:
    assert PriceList().find(deployment(kind, "m")) == (True, FREE)
    _, price = PriceList({"m": PriceSettings(per_second="0.5")}).find(deployment(kind, "m"))  # type: ignore[arg-type]
    assert price is not None
    assert price.cost({"milliseconds": 3000}, 0) == 1_500_000_000


def test_a_look_up_that_fails_leaves_no_price_and_is_tried_again_later(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def fails(questions: Any) -> list[Any]:
        calls.append(questions)
        raise OSError("no such program")

    prices, wanted = PriceList(describe=fails), [deployment("openai", "gpt-4o")]
    prices.load(wanted)
    prices.load(wanted)
    assert len(calls) == 1
    assert prices.find(wanted[0]) == (False, None)
    assert "no such program" in caplog.text
