"""Channels of one-api and new-api in the shape of LiteLLM's model list, from which :class:`Conversion` goes on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from sage.middleware.cli.litellm.conversion import Conversion
from sage.middleware.cli.one_api.channel_types import ChannelType
from sage.middleware.cli.one_api.source import OneApiData, Row

_ENABLED = 1
_PER_USD = 500_000
"""Quota for a dollar (``QuotaPerUnit``)."""


class ChannelTranslation:
    """``source`` is a configuration in LiteLLM's shape, ``secrets`` are the keys by the variables that it names."""

    def __init__(self, data: OneApiData, types: Mapping[int, ChannelType]) -> None:
        self._types = types
        self.secrets: dict[str, str] = {}
        self.left_out: list[tuple[str, str]] = []
        enabled = [channel for channel in data.channels if self._is_usable(channel)]
        highest = max((_whole(channel.get("priority")) for channel in enabled), default=0)
        entries = [entry for channel in enabled for entry in self._entries(channel, highest)]
        self.source: dict[str, Any] = {"model_list": entries}
        self._tell_people(data)

    def convert(self) -> Conversion:
        """Our configuration, with a report of what is not in it."""
        conversion = Conversion(self.source)
        for place, reason in self.left_out:
            conversion.report.leave_out(place, reason)
        return conversion

    def _is_usable(self, channel: Row) -> bool:
        place, kind = _place(channel), _whole(channel.get("type"))
        if _whole(channel.get("status", _ENABLED)) != _ENABLED:
            self.left_out.append((place, "it is switched off"))
            return False
        if kind not in self._types:
            self.left_out.append((place, f"SAGE has no provider for the channel type {kind}"))
            return False
        return True

    def _entries(self, channel: Row, highest: int) -> Iterator[dict[str, Any]]:
        kind = self._types[_whole(channel.get("type"))]
        mapping = _object(channel.get("model_mapping"))
        base = kind.api_base(str(channel.get("base_url") or ""))
        weight, order = _whole(channel.get("weight")), highest - _whole(channel.get("priority"))
        self._tell_channel(channel)
        for variable in self._variables(channel):
            for name in _names(channel.get("models")):
                params: dict[str, Any] = {"model": f"{kind.prefix}/{mapping.get(name, name)}"}
                params |= {"api_key": f"os.environ/{variable}"} if variable is not None else {}
                params |= {"api_base": base} if base is not None else {}
                params |= {"weight": weight} if weight > 0 else {}
                params |= {"order": order} if order > 0 else {}
                version = _azure_version(channel) if kind.prefix == "azure" else None
                params |= {"api_version": version} if version else {}
                yield {"model_name": name, "litellm_params": params}

    def _variables(self, channel: Row) -> list[str | None]:
        """A variable for each key of the channel."""
        keys = [key.strip() for key in str(channel.get("key") or "").splitlines() if key.strip()]
        text = re.sub(r"[^A-Z0-9]+", "_", str(channel.get("name") or "").upper()).strip("_")
        stem = f"CHANNEL_{_whole(channel.get('id'))}" + (f"_{text}" if text else "")
        variables: list[str | None] = []
        for number, key in enumerate(keys, 1):
            variable = f"{stem}_KEY" if len(keys) == 1 else f"{stem}_KEY_{number}"
            self.secrets[variable] = key
            variables.append(variable)
        return variables or [None]

    def _tell_channel(self, channel: Row) -> None:
        place = _place(channel)
        groups = [group for group in _names(channel.get("group")) if group != "default"]
        if groups:
            self.left_out.append(
                (place, f"its groups {', '.join(groups)}: who reaches a model is said by teams and keys (models)")
            )
        for name in ("param_override", "header_override", "status_code_mapping", "system_prompt"):
            if str(channel.get(name) or "") not in ("", "{}"):
                self.left_out.append((place, f"there is no counterpart of {name}"))

    def _tell_people(self, data: OneApiData) -> None:
        names = {_whole(user.get("id")): str(user.get("username") or "") for user in data.users}
        for user in data.users:
            role = "admin" if _whole(user.get("role")) >= 10 else "user"
            name = str(user.get("username") or "")
            self.left_out.append((f"user '{name}'", f"make it: sage user add {shlex.quote(name)} --role {role}"))
        for token in data.tokens:
            if _whole(token.get("status", _ENABLED)) == _ENABLED:
                self.left_out.append((f"token '{token.get('name')}'", _advice(token, names)))


def _advice(token: Row, users: Mapping[int, str]) -> str:
    """How to make a key like it; its text stays behind."""
    user = shlex.quote(users.get(_whole(token.get("user_id")), "NAME"))
    models = _names(token.get("model_limits") if token.get("model_limits_enabled") else token.get("models"))
    command = f"sage key add --user {user} --name {shlex.quote(str(token.get('name') or ''))}"
    command += "".join(f" --model {shlex.quote(model)}" for model in models)
    if token.get("unlimited_quota"):
        return f"make a key: {command}"
    return f"make a key: {command}; it has {_whole(token.get('remain_quota')) / _PER_USD:.2f} USD left: sage budget set"


def _place(channel: Row) -> str:
    return f"channel {_whole(channel.get('id'))} '{channel.get('name') or ''}'"


def _azure_version(channel: Row) -> str | None:
    config = _object(channel.get("config"))
    version = config.get("api_version") or str(channel.get("other") or "")
    return str(version) if re.fullmatch(r"\d{4}-\d\d-\d\d(-preview)?", str(version)) else None


def _names(value: Any) -> list[str]:
    return [name.strip() for name in str(value or "").split(",") if name.strip()]


def _object(value: Any) -> dict[str, Any]:
    try:
        read = json.loads(value) if isinstance(value, str) and value.strip() else value
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _whole(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0
