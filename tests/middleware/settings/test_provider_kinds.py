"""The rows of the kinds: each one whole, and held to the adapter that it names."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest

from sage.errors import ConfigError
from sage.middleware.providers.base import Operation
from sage.middleware.providers.vendor import Vendor
from sage.middleware.registry.factory import adapter_of
from sage.middleware.settings.kinds import KINDS, PRESETS, VENDORS, vendors_of
from sage.middleware.settings.providers import ProviderCommon, RemoteProvider
from sage.middleware.settings.quantities import check_base_url
from sage.middleware.settings.reading import load_settings
from sage.middleware.settings.vendors.kind import Preset, ProviderKind

every_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS.values()])


@every_kind
def test_a_row_names_an_adapter_that_takes_its_section(kind: ProviderKind) -> None:
    adapter = adapter_of(kind)
    assert isinstance(adapter, type)
    assert issubclass(adapter, Vendor)
    parameters = inspect.signature(adapter, eval_str=True).parameters
    assert issubclass(kind.settings, parameters["settings"].annotation)
    assert ("data_dir" in parameters) == kind.keeps_files


@every_kind
def test_a_row_is_whole(kind: ProviderKind) -> None:
    assert issubclass(kind.settings, ProviderCommon)
    fields = kind.settings.model_fields
    assert {*kind.needs, *kind.variables.values()} <= fields.keys()
    if kind.needs:
        assert any(key in kind.needs for key in kind.variables.values()), "no variable can configure it"
    if kind.default_url is not None:
        check_base_url(kind.default_url)
        assert kind.default_url.startswith("https://")
        assert not kind.default_url.endswith("/")
    if isinstance(kind, Preset):
        assert kind.default_url is not None or kind.needs == ("base_url",)
        assert {Operation(operation) for operation in kind.operations} >= {Operation.CHAT}


def test_no_two_rows_share_a_name_or_a_variable() -> None:
    rows = (*VENDORS, *PRESETS)
    assert {name: n for name, n in Counter(kind.name for kind in rows).items() if n > 1} == {}
    variables = Counter(variable for kind in rows for variable in kind.variables)
    assert {variable: n for variable, n in variables.items() if n > 1} == {}


@every_kind
def test_a_kind_is_configured_under_its_own_name_and_under_another(kind: ProviderKind) -> None:
    values = {"api_key": "k", "auth_token": "t", "base_url": "http://127.0.0.1:9"}
    variables = {variable: values[key] for variable, key in kind.variables.items()}
    own = load_settings(environ=variables).llm.providers[kind.name]
    other = load_settings(overrides={"llm.providers": {"other": {"kind": kind.name}}}).llm.providers["other"]
    assert (type(own), type(other)) == (kind.settings, kind.settings)
    assert (own.kind, other.kind) == (kind.name, kind.name)
    assert kind.is_configured(own)
    assert kind.is_configured(other) == (not isinstance(other, RemoteProvider))


@every_kind
def test_an_option_that_the_kind_does_not_have_is_named(kind: ProviderKind) -> None:
    with pytest.raises(
        ConfigError, match=rf"llm\.providers\.{kind.name}: unknown key 'retires'; did you mean 'retries'"
    ):
        load_settings(overrides={"llm.providers": {kind.name: {"kind": kind.name, "retires": 1}}})


def test_an_unknown_kind_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"providers\.x: unknown kind 'opnai'; did you mean 'openai'"):
        load_settings(overrides={"llm.providers": {"x": {"kind": "opnai"}}})
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides={"llm.providers": {"x": {}}})
    assert f"providers.x needs 'kind', one of {', '.join(KINDS)}" in caught.value.message


@pytest.mark.parametrize(
    ("model", "vendors"),
    [
        ("gpt-4o", ["openai"]),
        ("o1-mini", ["openai"]),
        ("ollama-thing", []),
        ("text-embedding-3-small", ["openai"]),
        ("glm-4.6", ["zhipu"]),
        ("command-r", ["cohere"]),
        ("rerank-v3.5", ["cohere"]),
        ("my-gpt-4", []),
        ("GPT-4o", []),
    ],
)
def test_the_vendor_of_a_models_name(model: str, vendors: list[str]) -> None:
    assert vendors_of(model) == vendors
