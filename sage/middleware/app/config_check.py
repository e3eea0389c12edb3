"""What in a configuration cannot work on this machine, found without starting anything."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sage.errors import ConfigError, InvalidRequest, NotFound
from sage.middleware.app.workers.listening import check_workers
from sage.middleware.hub.snapshots import Snapshots
from sage.middleware.hub.sources import is_source, parse_source
from sage.middleware.providers.vllm.provider import VllmProvider
from sage.middleware.registry.registry import Registry
from sage.middleware.retrieval.embedding import builtin
from sage.middleware.settings.kinds import vendors_of
from sage.middleware.settings.providers import LocalProvider, OllamaSettings, VllmSettings
from sage.middleware.settings.queue import check_broker
from sage.middleware.settings.settings import Settings

PROJECT = "intellistream-sage-middleware"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A fault is in what the configuration says; what is no fault is a warning: something that
    is left out or that the environment may still bring, such as a key."""

    text: str
    is_fault: bool = True


def check(settings: Settings, registry: Registry) -> list[Finding]:
    """Every finding, faults first. ``registry`` is that of ``settings``."""
    found = chain(
        _absent_providers(registry),
        _local_models(settings, registry),
        _deployments(settings, registry),
        _named_models(settings, registry),
        _embedders(settings, registry),
        _extras(settings),
        _broker(settings),
        _workers(settings),
        _paths(settings, registry),
    )
    return sorted(found, key=lambda finding: not finding.is_fault)


def _absent_providers(registry: Registry) -> Iterator[Finding]:
    for name, reason in sorted(registry.absent.items()):
        yield Finding(f"provider '{name}' cannot serve: {reason}", is_fault=False)


def _local_models(settings: Settings, registry: Registry) -> Iterator[Finding]:
    """The model that comes along may be missing where it is not asked for."""
    shipped = LocalProvider().models
    for name, provider in registry.providers.items():
        section = settings.llm.providers[name]
        models = section.models if isinstance(section, LocalProvider) else {}
        wanted = {model for model, options in models.items() if shipped.get(model) != options}
        complaints = provider.complaints()
        for model, reason in complaints:
            yield Finding(f"model '{model}' cannot serve: {reason}", is_fault=model in wanted)
        if wanted - {model for model, _ in complaints} and not _is_installed("xllamacpp"):
            yield _missing_extra(f"llm.providers.{name}", "local")


def _deployments(settings: Settings, registry: Registry) -> Iterator[Finding]:
    for model in registry.models():
        configured = settings.llm.models.get(model.name)
        providers = {deployment.provider for deployment in configured.deployments} if configured is not None else set()
        # A provider that has a section waits for its key; one that has none is not going to come.
        is_fault = not model.deployments and bool(providers - registry.absent.keys())
        for fault in model.faults:
            yield Finding(f"model '{model.name}': {fault}", is_fault)


def _named_models(settings: Settings, registry: Registry) -> Iterator[Finding]:
    for model in registry.models():
        for name in model.fallbacks:
            if not _is_resolvable(name, settings, registry):
                yield Finding(f"model '{model.name}' falls back on '{name}', which is not registered")
    memory = settings.services.memory
    for key, asked in (
        ("facts_model", memory.facts_model),
        ("summary_model", memory.summary_model),
        ("questions_model", memory.questions_model),
    ):
        if asked is not None and not _is_resolvable(asked, settings, registry):
            yield Finding(f"services.memory.{key} is '{asked}', which is not registered")


def _is_resolvable(name: str, settings: Settings, registry: Registry) -> bool:
    """Whether the registry can tell who serves the model ``name``, without asking an upstream."""
    if registry.get(name) is not None or any(vendor in registry.providers for vendor in vendors_of(name)):
        return True
    provider, slash, model = name.partition("/")
    if not slash or provider not in settings.llm.providers:
        return False
    section = settings.llm.providers[provider]
    return not isinstance(section, LocalProvider) or model in section.models


def _embedders(settings: Settings, registry: Registry) -> Iterator[Finding]:
    places = {
        "retrieval.defaults.embedder": settings.retrieval.defaults.embedder,
        "services.vdb.embedder": settings.services.vdb.embedder,
        "services.memory.embedder": settings.services.memory.embedder,
    }
    for place, name in places.items():
        if is_source(name):
            yield from _hub_embedder(place, name, settings)
            continue
        kind = builtin.kind_named(name)
        if kind is not None and not kind.is_installed:
            yield _missing_extra(f"{place}: {name}", kind.extra)
        if not builtin.is_builtin(name) and not _is_resolvable(name, settings, registry):
            yield Finding(f"{place} is '{name}', which is not registered")


def _hub_embedder(place: str, name: str, settings: Settings) -> Iterator[Finding]:
    try:
        source = parse_source(name)
    except InvalidRequest as exc:
        yield Finding(f"{place}: {exc.message}")
        return
    if not all(map(_is_installed, ("onnxruntime", "tokenizers", "huggingface_hub"))):
        yield _missing_extra(f"{place}: {name}", "embed-hub")
    if Snapshots(settings.data_dir / "models").find(source) is None:
        yield Finding(
            f"{place} is '{name}', which was not pulled yet; the first use pulls it, or: sage models pull {name}",
            is_fault=False,
        )


def _broker(settings: Settings) -> Iterator[Finding]:
    try:
        check_broker(settings.queue.broker)
    except ConfigError as exc:
        yield Finding(exc.message)


def _extras(settings: Settings) -> Iterator[Finding]:
    defaults, services = settings.retrieval.defaults, settings.services
    discovery = services.discovery.get_secret_value() if services.discovery is not None else ""
    needs = (
        (defaults.keywords.engine == "rank-bm25", "retrieval.defaults.keywords.engine", "rank_bm25", "rank-bm25"),
        (defaults.analysis.chinese == "rjieba", "retrieval.defaults.analysis.chinese", "rjieba", "chinese"),
        (defaults.analysis.script == "simplified", "retrieval.defaults.analysis.script", "opencc", "chinese"),
        (services.runtime == "ray", "services.runtime", "ray", "ray"),
        (services.kv.backend_type == "redis", "services.kv.backend_type", "redis", "redis"),
        (services.vdb.backend == "chroma", "services.vdb.backend", "chromadb", "chroma"),
        (discovery.startswith("redis"), "services.discovery", "redis", "redis"),
        (settings.database is not None, "database", "psycopg", "postgres"),
        (settings.queue.broker is not None, "queue.broker", "celery", "queue"),
        (bool(settings.queue.schedules), "queue.schedules", "celery", "queue"),
    )
    for is_needed, place, package, extra in needs:
        if is_needed and not _is_installed(package):
            yield _missing_extra(place, extra)
    for name, section in settings.llm.providers.items():
        if isinstance(section, OllamaSettings) and section.base_url is not None and not _is_installed("ollama"):
            yield _missing_extra(f"llm.providers.{name}: loading and pulling its models", "ollama", is_fault=False)


def _paths(settings: Settings, registry: Registry) -> Iterator[Finding]:
    directory = settings.data_dir
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        yield Finding(f"data_dir: {settings.data_dir} cannot be written: {directory} is not a directory of yours")
    for root in settings.queue.ingest.roots:
        if not root.is_dir():
            yield Finding(f"queue.ingest.roots: there is no directory {root}")
    for name, section in settings.llm.providers.items():
        if isinstance(section, VllmSettings):
            yield from _vllm_paths(name, section, settings, registry)
    discovery = settings.services.discovery
    if discovery is not None and "://" not in discovery.get_secret_value():
        parent = Path(discovery.get_secret_value()).expanduser().parent
        if not parent.is_dir():
            yield Finding(f"services.discovery: there is no directory {parent}")


def _workers(settings: Settings) -> Iterator[Finding]:
    try:
        check_workers(settings.api.workers)
    except ConfigError as exc:
        yield Finding(exc.message)


def _vllm_paths(name: str, section: VllmSettings, settings: Settings, registry: Registry) -> Iterator[Finding]:
    lora_dir = section.lora_dir.expanduser() if section.lora_dir is not None else None
    if lora_dir is not None and not lora_dir.is_dir():
        yield Finding(f"llm.providers.{name}.lora_dir: there is no directory {lora_dir}")
    deployments = [
        (model, deployment)
        for model, options in settings.llm.models.items()
        for deployment in options.deployments
        if deployment.provider == name
    ]
    starts = any(deployment.engine is not None for _, deployment in deployments)
    if starts and shutil.which(section.command[0]) is None:
        yield Finding(f"llm.providers.{name}.command: there is no program '{section.command[0]}'; give its full path")
    provider = registry.providers.get(name)
    for model, deployment in deployments:
        if deployment.lora is None or lora_dir is None or not lora_dir.is_dir():
            continue
        assert isinstance(provider, VllmProvider)
        try:
            provider.adapter(deployment.lora)
        except (InvalidRequest, NotFound) as exc:
            yield Finding(f"model '{model}': {exc.message}")


def _missing_extra(place: str, extra: str, *, is_fault: bool = True) -> Finding:
    return Finding(f"{place} needs the extra '{extra}': pip install '{PROJECT}[{extra}]'", is_fault)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
