"""Google's wire (Gemini API, v1beta) for the scripted upstream: a server that echoes, and refuses what Google refuses.

    up.handler = gemini_like

Every request is read by the types of Google's SDK, which let no unknown field through, and held to the rules of its
documentation that no type says. Every scripted answer is read by the SDK's types, too.
"""

from __future__ import annotations

import json
from typing import Any

import pydantic
from google.genai import types
from upstream import Received, Script, reply, stream

KEY = "AIza-key-0123456789"
_TYPES: dict[str, pydantic.TypeAdapter[Any]] = {
    "contents": pydantic.TypeAdapter(list[types.Content]),
    "systemInstruction": pydantic.TypeAdapter(types.Content),
    "tools": pydantic.TypeAdapter(list[types.Tool]),
    "toolConfig": pydantic.TypeAdapter(types.ToolConfig),
    "generationConfig": pydantic.TypeAdapter(types.GenerationConfig),
    "safetySettings": pydantic.TypeAdapter(list[types.SafetySetting]),
}
_EMBEDS = frozenset({"model", "content", "taskType", "title", "outputDimensionality"})
_BOTH_WAYS = frozenset({"parametersJsonSchema", "responseJsonSchema", "args", "response"})
"""Under these the keys are the caller's."""


def fault(model: str, body: dict[str, Any]) -> str | None:
    """What is wrong with a request for an answer, in the eyes of Google's SDK and documentation."""
    for name, value in body.items():
        if name not in _TYPES:
            return f'Unknown name "{name}": Cannot find field.'
        if snake := _snake_keys(value):
            return f"{name}: {snake} is no name of the wire"
        try:
            _TYPES[name].validate_python(value)
        except pydantic.ValidationError as exc:
            return f"{name}: {exc}"
    config = body.get("generationConfig", {}).get("thinkingConfig", {})
    if "gemini-2.5" in model and "thinkingLevel" in config:
        return "Thinking level is not supported for this model."
    if "gemini-3" in model and "thinkingBudget" in config:
        return "Thinking budget is not supported for this model."
    return _fault_of_contents(body["contents"], signed="gemini-3" in model)


def _fault_of_contents(contents: list[dict[str, Any]], *, signed: bool) -> str | None:
    called: list[str] = []
    for content in contents:
        if content["role"] not in ("user", "model"):
            return "Please use a valid role: user, model."
        if not content["parts"]:
            return "contents.parts must not be empty."
        for part in content["parts"]:
            if part.get("text") == "":
                return "Unable to submit request because it must have a text parameter."
        answered = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        if answered != called:
            return "Please ensure that the number of function response parts is equal to that of function call parts."
        calls = [part for part in content["parts"] if "functionCall" in part]
        called = [part["functionCall"]["name"] for part in calls]
        if signed and calls and "thoughtSignature" not in calls[0]:
            return "Function call is missing a thought_signature in functionCall parts."
    return None


def _snake_keys(value: Any) -> str | None:
    if isinstance(value, list):
        return next(filter(None, map(_snake_keys, value)), None)
    if not isinstance(value, dict):
        return None
    for name, inner in value.items():
        if "_" in name:
            return name
        if name not in _BOTH_WAYS and (found := _snake_keys(inner)):
            return found
    return None


def gemini_like(request: Received) -> Script:
    """What Google would answer: chat that echoes, vectors of three numbers, a token for each word."""
    if request.headers.get("x-goog-api-key") != KEY:
        return wrong_key()
    path, _, query = request.path.partition("?")
    body = request.body if isinstance(request.body, dict) else {}
    if path == "/v1beta/models":
        return reply({"models": [{"name": f"models/{name}"} for name in ("gemini-2.5-flash", "gemini-embedding-001")]})
    resource, _, method = path.removeprefix("/v1beta/").partition(":")
    if not resource.startswith("models/"):
        return failure(404, "NOT_FOUND", "not found")
    model = resource.removeprefix("models/")
    if method == "batchEmbedContents":
        return _embedded(resource, body)
    if method == "countTokens":
        return _counted(resource, model, body)
    if method not in ("generateContent", "streamGenerateContent"):
        return failure(404, "NOT_FOUND", "not found")
    if wrong := fault(model, body):
        return failure(400, "INVALID_ARGUMENT", wrong)
    text = "".join(part.get("text", "") for part in body["contents"][-1]["parts"]) or "nothing"
    counted = usage(4, len(text.split()))
    if method == "streamGenerateContent":
        assert query == "alt=sse"
        words = [answer({"text": word + " "}, finish=None) for word in text.split(" ")]
        return events(*words, answer(counted=counted))
    return reply(answer({"text": text}, counted=counted))


def _embedded(resource: str, body: dict[str, Any]) -> Script:
    vectors = []
    for index, entry in enumerate(body["requests"]):
        if entry["model"] != resource or not entry.keys() <= _EMBEDS:
            return failure(400, "INVALID_ARGUMENT", f"requests[{index}]")
        types.Content.model_validate(entry["content"])
        text = entry["content"]["parts"][0]["text"]
        vectors.append([float(len(text)), float(index), 1.0][: entry.get("outputDimensionality", 3)])
    return reply({"embeddings": [{"values": vector} for vector in vectors]})


def _counted(resource: str, model: str, body: dict[str, Any]) -> Script:
    inner = dict(body.get("generateContentRequest", {"model": resource, **body}))
    if inner.pop("model") != resource:
        return failure(400, "INVALID_ARGUMENT", "model")
    if wrong := fault(model, inner):
        return failure(400, "INVALID_ARGUMENT", wrong)
    return reply({"totalTokens": len(json.dumps(inner["contents"]).split())})


def failure(status: int, kind: str, text: str, details: Any = ()) -> Script:
    """An error in Google's envelope."""
    return reply({"error": {"code": status, "message": text, "status": kind, "details": list(details)}}, status=status)


def wrong_key() -> Script:
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }
    return failure(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", [detail])


def usage(prompt: int, candidates: int, **more: Any) -> dict[str, Any]:
    total = prompt + candidates + more.get("thoughtsTokenCount", 0)
    return {
        "promptTokenCount": prompt,
        "candidatesTokenCount": candidates,
        "totalTokenCount": total,
        **more,
    }


def candidate(*parts: dict[str, Any], finish: str | None = "STOP", index: int = 0, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": index, **fields}
    if finish is not None:
        made["finishReason"] = finish
    return made


def answer(*parts: dict[str, Any], finish: str | None = "STOP", counted: Any = None, **fields: Any) -> dict[str, Any]:
    """A whole answer of one candidate, or an event of a stream; ``fields`` are of the candidate."""
    made = {
        "candidates": [candidate(*parts, finish=finish, **fields)],
        "modelVersion": "gemini-x",
        "responseId": "resp-1",
        "usageMetadata": counted or usage(4, 3),
    }
    types.GenerateContentResponse.model_validate(made)
    return made


def called(name: str, arguments: dict[str, Any], signature: str = "", identity: str = "") -> dict[str, Any]:
    """A part with a call."""
    call = {"name": name, "args": arguments} | ({"id": identity} if identity else {})
    return {"functionCall": call} | ({"thoughtSignature": signature} if signature else {})


def events(*items: dict[str, Any] | bytes, **options: Any) -> Script:
    """A stream of these answers."""
    encoded = [item if isinstance(item, bytes) else f"data: {json.dumps(item)}\r\n\r\n".encode() for item in items]
    return stream(encoded, no_done=True, **options)
