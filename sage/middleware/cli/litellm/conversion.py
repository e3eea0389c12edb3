"""Converts LiteLLM's configuration into ours, and reports what has no counterpart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage.middleware.cli.litellm import costs
from sage.middleware.cli.litellm.providers import ProviderTable
from sage.middleware.cli.litellm.report import ConversionReport
from sage.middleware.cli.litellm.upstreams import split_model
from sage.middleware.settings.providers import Timeouts

_PROVIDER_KEYS = {
    "model", "api_key", "api_base", "base_url", "api_version", "organization", "headers", "extra_headers",
    "custom_llm_provider", "litellm_credential_name",
}  # fmt: skip
_ROUTING_KEYS = {
    "weight", "order", "timeout", "max_retries", "num_retries", "drop_params", "max_parallel_requests",
}  # fmt: skip
_OTHER_MODES = ("image", "audio", "realtime", "video", "ocr")
_SECTIONS = {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables",
             "credential_list"}  # fmt: skip
_MOST_RETRIES = 2


@dataclass
class _ModelGroup:
    """The deployments of one public name, with what LiteLLM says of each."""

    deployments: list[dict[str, Any]] = field(default_factory=list)
    params: list[Mapping[str, Any]] = field(default_factory=list)


class Conversion:
    """The conversion of one configuration; ``result`` is ours."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self.report = ConversionReport()
        self._source = source
        self._providers = ProviderTable(self.report)
        self._groups: dict[str, _ModelGroup] = {}
        self._library = self._section("litellm_settings")
        self._router = self._section("router_settings")
        self._used: dict[str, set[str]] = {"litellm_settings": set(), "router_settings": set()}
        for position, entry in enumerate(source["model_list"]):
            self._read_entry(position, entry)
        self._add_aliases()
        self.models = {name: self._model(name, group) for name, group in self._groups.items()}
        self._add_fallbacks()
        self.routing = self._routing()
        self._report_the_rest()

    @property
    def result(self) -> dict[str, Any]:
        providers = {
            name: {key: value for key, value in section.items() if key != "kind" or value != name}
            for name, section in self._providers.sections.items()
        }
        llm: dict[str, Any] = {"providers": providers, "models": self.models}
        return {"llm": {**llm, "routing": self.routing} if self.routing else llm}

    def _section(self, name: str) -> Mapping[str, Any]:
        section = self._source.get(name)
        return section if isinstance(section, Mapping) else {}

    def _setting(self, *keys: str) -> Any:
        """The first of these settings that the router has, or else the library."""
        for used in self._used.values():
            used.update(keys)
        return next((s[key] for s in (self._router, self._library) for key in keys if s.get(key) is not None), None)

    # The list of models

    def _read_entry(self, position: int, entry: Any) -> None:
        params = entry.get("litellm_params") if isinstance(entry, Mapping) else None
        if not isinstance(params, Mapping) or not entry.get("model_name") or not params.get("model"):
            self.report.leave_out(f"model_list[{position}]", "it has no model_name, or no litellm_params.model")
            return
        name = str(entry["model_name"])
        place = f"model '{name}' ({params['model']})"
        info = entry.get("model_info")
        mode = str(info.get("mode", "")) if isinstance(info, Mapping) else ""
        if mode.startswith(_OTHER_MODES):
            self.report.leave_out(place, f"SAGE has no models of the mode {mode}")
            return
        known = {key: info[key] for key in costs.KEYS if key in info} if isinstance(info, Mapping) else {}
        params = {**known, **self._credential(params), **params}
        prefix, model = split_model(str(params["model"]), params.get("custom_llm_provider"))
        if not model:
            self.report.leave_out(place, "it names no model")
            return
        provider = self._providers.add(place, prefix, model, params)
        self.report.leave_out_keys(place, {str(key) for key in params} - _PROVIDER_KEYS - _ROUTING_KEYS - costs.KEYS)
        if provider is None:
            return
        if "*" in name or "*" in model:
            self.report.leave_out(place, f"ask for {provider}/MODEL, which needs no entry")
            return
        group = self._groups.setdefault(name, _ModelGroup())
        group.deployments.append({"provider": provider, "model": model})
        group.params.append(params)

    def _credential(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        wanted = params.get("litellm_credential_name")
        listed = self._source.get("credential_list")
        for credential in listed if isinstance(listed, list) else ():
            if isinstance(credential, Mapping) and wanted and credential.get("credential_name") == wanted:
                values = credential.get("credential_values")
                return values if isinstance(values, Mapping) else {}
        return {}

    def _add_aliases(self) -> None:
        aliases = self._setting("model_group_alias")
        for alias, wanted in aliases.items() if isinstance(aliases, Mapping) else ():
            name = wanted.get("model") if isinstance(wanted, Mapping) else wanted
            if str(name) in self._groups:
                self._groups.setdefault(str(alias), self._groups[str(name)])
            else:
                self.report.leave_out(f"router_settings.model_group_alias: {alias}", f"there is no model '{name}'")

    # One public name

    def _model(self, name: str, group: _ModelGroup) -> dict[str, Any]:
        weights = _weights(group.params)
        deployments = []
        for deployment, params, weight in zip(group.deployments, group.params, weights, strict=True):
            order = _number(params.get("order"))
            extra: dict[str, Any] = {"weight": weight} if weight is not None else {}
            price = costs.price_of(params)
            extra |= {"price": price} if price else {}
            deployments.append({**deployment, **extra, **({"priority": int(order)} if order else {})})
        model: dict[str, Any] = {"deployments": deployments, **self._bounds(name, group)}
        if (
            any(params.get("drop_params") is True for params in group.params)
            or self._library.get("drop_params") is True
        ):
            model["drop_unsupported"] = True
        parallel = [number for params in group.params if (number := _number(params.get("max_parallel_requests")))]
        if parallel:
            model["max_concurrency"] = max(1, int(min(parallel)))
        return {**model, **self._retries(group), **self._timeouts(name, group)}

    def _bounds(self, name: str, group: _ModelGroup) -> dict[str, Any]:
        """Limits and the budget: here they are the model's, not a deployment's."""
        limits, budget = costs.limits_of(group.params), costs.budget_of(group.params)
        for key in ("rpm", "tpm"):
            if key not in limits and any(params.get(key) for params in group.params):
                self.report.leave_out(f"model '{name}'", f"{key}, since not all its deployments have one")
        if budget is None and any(params.get("max_budget") for params in group.params):
            self.report.leave_out(f"model '{name}'", "max_budget, since a budget is of a day, week, month or in all")
        return {**({"limits": limits} if limits else {}), **({"budget": budget} if budget else {})}

    def _retries(self, group: _ModelGroup) -> dict[str, Any]:
        default = _number(self._setting("num_retries"))
        given = [_number(params.get("num_retries", params.get("max_retries", default))) for params in group.params]
        wanted = [number for number in given if number is not None]
        if any(number > _MOST_RETRIES for number in wanted):
            self.report.leave_out(
                "num_retries", f"there are at most {_MOST_RETRIES} further attempts, those at fallbacks among them"
            )
        return {"retries": int(min(wanted))} if wanted and min(wanted) < _MOST_RETRIES else {}

    def _timeouts(self, name: str, group: _ModelGroup) -> dict[str, Any]:
        """A model may only narrow its provider's limit, so a longer one is the providers'."""
        default = _number(self._setting("timeout", "request_timeout"))
        given = [_number(params.get("timeout", default)) for params in group.params]
        limits = [number for number in given if number]
        usual = Timeouts().total
        if not limits or max(limits) == usual:
            return {}
        if len(set(limits)) > 1:
            self.report.leave_out(f"model '{name}'", "its deployments have one timeout, the longest of them")
        if max(limits) < usual:
            return {"timeouts": {"total": max(limits)}}
        for deployment in group.deployments:
            limit = self._providers.sections[deployment["provider"]].setdefault("timeouts", {"total": 0})
            limit["total"] = max(limit["total"], max(limits))
        return {}

    # Settings

    def _add_fallbacks(self) -> None:
        chains = dict(self._fallbacks())
        everywhere = self._setting("default_fallbacks")
        if isinstance(everywhere, list):
            chains.setdefault("*", everywhere)
        for name, model in self.models.items():
            wanted = [str(each) for each in chains.get(name, chains.get("*", ())) if str(each) != name]
            known = [each for each in dict.fromkeys(wanted) if each in self.models]
            if known:
                model["fallbacks"] = known
                if model.pop("retries", None) is not None:
                    self.report.leave_out(f"model '{name}'", "num_retries, since fallbacks are further attempts here")
            for each in wanted:
                if each not in self.models:
                    self.report.leave_out(f"model '{name}'", f"its fallback '{each}' is no model of this file")

    def _fallbacks(self) -> Iterator[tuple[str, list[Any]]]:
        for section in (self._library, self._router):
            entries = section.get("fallbacks")
            for entry in entries if isinstance(entries, list) else ():
                for name, names in entry.items() if isinstance(entry, Mapping) else ():
                    yield str(name), names if isinstance(names, list) else [names]

    def _routing(self) -> dict[str, Any]:
        fails, pause = _number(self._setting("allowed_fails")), _number(self._setting("cooldown_time"))
        routing: dict[str, Any] = {}
        if fails is not None:
            routing["breaker_failures"] = int(fails) + 1
        if pause:
            routing["breaker_pause"] = pause
        return routing

    def _report_the_rest(self) -> None:
        for name, known in self._used.items():
            section = self._section(name)
            self.report.leave_out_keys(name, {str(key) for key in section} - known - {"fallbacks", "drop_params"})
        general = {str(key) for key in self._section("general_settings")}
        if "master_key" in general:
            self.report.leave_out(
                "general_settings.master_key",
                "make an administrator with 'sage user add NAME --role admin', keys with 'sage key add --user NAME'; "
                "names, budgets and teams of keys are in its database, not in this file",
            )
        self.report.leave_out_keys("general_settings", general - {"master_key"})
        if names := sorted(map(str, self._section("environment_variables"))):
            self.report.leave_out("environment_variables", f"set them where 'sage serve' runs: {', '.join(names)}")
        self.report.leave_out_keys("the file", {str(key) for key in self._source} - _SECTIONS)


def _weights(params: list[Mapping[str, Any]]) -> list[float | int | None]:
    """LiteLLM shares requests out by ``weight``, else by ``rpm``, else by ``tpm``, where all deployments have it."""
    for key in ("weight", "rpm", "tpm"):
        numbers = [_number(each.get(key)) for each in params]
        if len(numbers) > 1 and all(numbers):
            return list(numbers)
    return [None] * len(params)


def _number(value: Any) -> float | int | None:
    """A number that is not negative; ``None`` for everything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        return None
    return int(value) if value == int(value) else value
