"""What a kind of provider is, as a row of :mod:`sage.middleware.settings.kinds` says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage.middleware.settings.providers import ProviderCommon, RemoteProvider


@dataclass(frozen=True, kw_only=True)
class ProviderKind:
    """The facts of a kind of provider that do not depend on a configuration."""

    name: str
    adapter: str
    """``module:Class`` below ``sage.middleware.providers``."""
    settings: type[ProviderCommon] = RemoteProvider
    """Its section of the configuration."""
    needs: tuple[str, ...] = ("api_key",)
    """A provider is configured when one of these keys is set; empty means always."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """The vendor's own environment variables, each with the key that it fills. Of two for one key the first wins."""
    read_variable: Callable[[str], str] = str
    """Makes the key's value of a variable's text."""
    default_url: str | None = None
    """The address without a ``base_url``; ``None`` means that the vendor has no fixed address."""
    families: tuple[str, ...] = ()
    """Patterns (``gpt-*``) of the model names that are the vendor's own."""
    responses: bool = False
    """The vendor's own address has OpenAI's route of responses; without such an address, any has it."""
    starts_engines: bool = False
    """A deployment's ``engine`` serves without ``base_url``."""
    keeps_files: bool = False
    """Its adapter takes the data directory as a third argument."""

    def is_configured(self, section: ProviderCommon) -> bool:
        """Whether ``section`` gives what a provider of this kind needs."""
        if not self.needs or not isinstance(section, RemoteProvider):
            return True
        return ("api_key" in self.needs and bool(section.keys)) or (
            "base_url" in self.needs and section.base_url is not None
        )

    def what_to_set(self) -> str:
        """The advice for a provider of this kind that is not configured."""
        if not self.needs:
            return f"set llm.providers.{self.name}"
        variable = next(variable for variable, key in self.variables.items() if key in self.needs)
        engine = ", or give a deployment an 'engine'" if self.starts_engines else ""
        first, *others = self.needs
        if others:
            return f"set {variable}, or its {first} or {' or '.join(others)}{engine}"
        return f"set {variable}, or its {first}{engine}"


@dataclass(frozen=True, kw_only=True)
class Preset(ProviderKind):
    """A vendor that speaks OpenAI's wire at an address of its own. What it cannot do is refused without a request."""

    adapter: str = "presets:PresetProvider"
    operations: tuple[str, ...] = ("chat/completions",)
    """The operations that it has, by their paths below the address (``embeddings``, ``audio/speech``…)."""
    lists_models: bool = True
    """It has a list of its models."""
    always_streams_usage: bool = False
    """It sends the usage in every stream and refuses ``stream_options``, which asks for it."""
    sampling: tuple[str, ...] = ()
    """Fields beside OpenAI's that it has for choosing the next token (``top_k``, ``min_p``…). Others of that sort are
    left out for a model with ``drop_unsupported``."""
    unsupported: tuple[str, ...] = ()
    """OpenAI's fields that it does not have (``n``), or values of them (``response_format:json_schema``; of an object,
    the value is its ``type``): refused with 400, or left out for a model with ``drop_unsupported``."""
    unsupported_by: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The same for some of its models, by patterns of their names; the first that fits holds."""
    fixed_by: tuple[tuple[str, Mapping[str, tuple[float, ...]]], ...] = ()
    """Numbers that some of its models take at these values alone, by patterns of their names; the first that fits
    holds. Others are refused with 400, or left out for a model with ``drop_unsupported``."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """OpenAI's fields that have another name there."""
    refused_hints: tuple[str, ...] = ()
    """Fields that do not change the answer (``user``, ``store``), for which it refuses a request: left out."""
    refused_in_messages: tuple[str, ...] = ()
    """Fields of messages that other vendors' answers have (``reasoning_content``), for which it refuses a request: left
    out."""
    refused_in_responses: tuple[str, ...] = ()
    """The same of a request for a response that goes to it as it is."""
    streams_only: tuple[str, ...] = ()
    """Patterns of models that answer in streams only: a whole answer is put together of one."""
    no_thinking: Mapping[str, Any] = field(default_factory=dict)
    """Its fields for a call that asks its model not to think."""
    call_id_length: int | None = None
    """Letters and digits that the id of a tool call must have; ``None`` means that it takes any id."""
    error_status: Mapping[int, int] = field(default_factory=dict)
    """The HTTP status that each code of its errors (``base_resp.status_code``) means, which come with a 200."""
