"""Chat requests in OpenAI's shape as Google's: pure functions.

Source: Google's API reference (``models.generateContent``), and its guides on structured output and thinking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.providers.gemini.contents import ContentsBuilder
from sage.middleware.providers.gemini.models import ThinkingFacts
from sage.middleware.providers.gemini.parts import Refuse
from sage.middleware.providers.gemini.tools import add_tools
from sage.middleware.providers.vendor import HINTS, has_effect

_RENAMED = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "n": "candidateCount",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
    "media_resolution": "mediaResolution",
    "thinking_config": "thinkingConfig",
}
"""Fields of ``generationConfig``, by their names in the chat shape; the last two are Google's own."""
_TRANSLATED_APART = frozenset(
    {"messages", "tools", "tool_choice", "reasoning_effort", "models", "max_tokens", "max_completion_tokens"}
)
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
"""As Google's own server of OpenAI's wire has them."""
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}


def generate_request(body: Mapping[str, Any], facts: ThinkingFacts, refuse: Refuse) -> dict[str, Any]:
    """Google's request for OpenAI's ``body``; the model's name is in its path."""
    conversation = ContentsBuilder(refuse, needs_signatures=facts.needs_signatures)
    for index, message in enumerate(body["messages"]):
        conversation.add(index, message)
    if not conversation.contents:
        raise InvalidRequest("'messages' must hold a message of the user", param="messages")
    sent: dict[str, Any] = {"contents": conversation.contents}
    if conversation.system:
        sent["systemInstruction"] = {"parts": conversation.system}
    config: dict[str, Any] = {}
    bound = body.get("max_completion_tokens") or body.get("max_tokens")
    if bound:
        config["maxOutputTokens"] = bound
    for field, value in body.items():
        if value is None or field in HINTS or field in _TRANSLATED_APART:
            continue
        if field == "safety_settings":
            sent["safetySettings"] = value
        elif field in _TRANSLATED:
            _TRANSLATED[field](config, value, refuse)
        elif field in _RENAMED:
            if field != "top_k" or value != -1:
                config[_RENAMED[field]] = value
        elif has_effect(field, value):
            refuse(field, "")
    add_tools(sent, body, refuse)
    _add_effort(config, body.get("reasoning_effort"), facts, refuse)
    if config.get("responseLogprobs") is False:
        del config["responseLogprobs"]
        config.pop("logprobs", None)
    if config:
        sent["generationConfig"] = config
    return sent


def _stop(config: dict[str, Any], value: Any, refuse: Refuse) -> None:
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list):
        stops = [stop for stop in stops if stop != ""]  # an empty text stops nothing
    if stops:
        config["stopSequences"] = stops


def _form(config: dict[str, Any], value: Any, refuse: Refuse) -> None:
    kind = value.get("type") if isinstance(value, dict) else value
    if kind == "text":
        return
    if kind not in ("json_object", "json_schema") or not isinstance(value, dict):
        refuse("response_format", f" of the type '{kind}'")
        return
    config["responseMimeType"] = "application/json"
    if kind == "json_schema":
        wrapped = value.get("json_schema")
        schema = wrapped.get("schema") if isinstance(wrapped, dict) else None
        if not isinstance(schema, dict):
            raise InvalidRequest(
                "'response_format.json_schema.schema' must be a JSON schema", param="response_format.json_schema"
            )
        config["responseJsonSchema"] = schema


def _modalities(config: dict[str, Any], value: Any, refuse: Refuse) -> None:
    known = {"text": "TEXT", "image": "IMAGE"}
    if not isinstance(value, list) or not all(isinstance(each, str) and each in known for each in value):
        refuse("modalities", " other than text and image")
    elif value and value != ["text"]:
        config["responseModalities"] = [known[each] for each in value]


_TRANSLATED: dict[str, Callable[[dict[str, Any], Any, Refuse], None]] = {
    "stop": _stop,
    "response_format": _form,
    "modalities": _modalities,
}


def _add_effort(config: dict[str, Any], effort: Any, facts: ThinkingFacts, refuse: Refuse) -> None:
    """Adds how hard the model is to think, unless the request has Google's own words for it."""
    if effort is None or "thinkingConfig" in config:
        return
    if not isinstance(effort, str) or (effort != "none" and effort not in _BUDGETS):
        raise InvalidRequest(f"'reasoning_effort' must be one of none, {', '.join(_BUDGETS)}", param="reasoning_effort")
    if effort == "none":
        if facts.control != "none" and not facts.can_stop:
            refuse("reasoning_effort", " 'none' for this model, which always thinks")
        elif facts.control == "budget":
            config["thinkingConfig"] = {"thinkingBudget": 0}
        elif facts.control == "level":
            config["thinkingConfig"] = {"thinkingLevel": _LEVELS[facts.least]}
    elif facts.control == "none":
        refuse("reasoning_effort", " for this model")
    elif facts.control == "budget":
        config["thinkingConfig"] = {"thinkingBudget": _BUDGETS[effort], "includeThoughts": True}
    else:
        level = _LEVELS[facts.least if effort == "minimal" else effort]
        config["thinkingConfig"] = {"thinkingLevel": level, "includeThoughts": True}
