"""Google's answers as chat answers in OpenAI's shape: pure functions, and the reader of one candidate's parts.

Source: Google's API reference (``GenerateContentResponse``, ``Candidate``, ``FinishReason``).
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import orjson

from sage.errors import UpstreamFailed
from sage.middleware.providers.base import Usage
from sage.middleware.providers.gemini.usage import read_usage
from sage.middleware.providers.wire.chunks import completion_id
from sage.middleware.providers.wire.json_values import objects, string
from sage.middleware.providers.wire.thought_signatures import extra_content, thinking_block
from sage.middleware.providers.wire.tool_calls import call_id

_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION"),
        ),
        "content_filter",
    ),
}
_FAILED = frozenset(
    {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE"}
    | {"MALFORMED_RESPONSE"}
)
"""Reasons of answers that went wrong: what there is of them is none."""


class PartsRead(NamedTuple):
    """What the parts of a candidate say."""

    text: str
    reasoning: str
    calls: list[dict[str, Any]]
    """Entries of ``tool_calls``."""
    signature: str
    """That of the text."""
    images: list[dict[str, Any]]

    def fields(self, thoughts: str = "") -> dict[str, Any]:
        """The fields of a message, or of a delta, without its text; ``thoughts`` came before them."""
        fields: dict[str, Any] = {}
        if self.reasoning:
            fields["reasoning_content"] = self.reasoning
        if self.images:
            fields["images"] = self.images
        if self.signature:
            fields.update(extra_content(self.signature))
        signed = next((call for call in self.calls if "extra_content" in call), None)
        if signed is not None:
            signature = signed["extra_content"]["google"]["thought_signature"]
            fields["thinking_blocks"] = [thinking_block(thoughts + self.reasoning, signature)]
        return fields


def read_parts(candidate: dict[str, Any]) -> PartsRead:
    """What the parts of ``candidate`` say; what the vendor's own tools did is left out."""
    content = candidate.get("content")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    signature = ""
    for part in objects(content.get("parts") if isinstance(content, dict) else None):
        text, blob = string(part.get("text")), part.get("inlineData")
        if isinstance(part.get("functionCall"), dict):
            calls.append(_call(part["functionCall"], string(part.get("thoughtSignature"))))
            continue
        signature = string(part.get("thoughtSignature")) or signature
        if part.get("thought") is True:
            thoughts.append(text)
        elif text:
            texts.append(text)
        elif isinstance(blob, dict) and string(blob.get("data")):
            url = f"data:{string(blob.get('mimeType')) or 'image/png'};base64,{blob['data']}"
            images.append({"type": "image_url", "image_url": {"url": url}})
    return PartsRead("".join(texts), "".join(thoughts), calls, signature, images)


def _call(call: dict[str, Any], signature: str) -> dict[str, Any]:
    arguments = call.get("args")
    text = orjson.dumps(arguments if isinstance(arguments, dict) else {}).decode()
    made: dict[str, Any] = {
        "id": string(call.get("id")) or call_id(),
        "type": "function",
        "function": {"name": string(call.get("name")), "arguments": text},
    }
    return made | (extra_content(signature) if signature else {})


def finish_reason(candidate: dict[str, Any], *, has_calls: bool) -> str | None:
    """OpenAI's ``finish_reason`` for Google's; ``None`` if the candidate goes on.

    Raises :class:`UpstreamFailed` for an answer that went wrong.
    """
    reason = candidate.get("finishReason")
    if not isinstance(reason, str) or reason in ("", "FINISH_REASON_UNSPECIFIED"):
        return None
    if reason in _FAILED:
        told = string(candidate.get("finishMessage"))[:500]
        raise UpstreamFailed(
            f"the model's answer went wrong ({reason})" + (f": {told}" if told else ""), code="upstream_failed"
        )
    finish = _FINISH.get(reason, reason.lower())
    return "tool_calls" if finish == "stop" and has_calls else finish


def chat_answer(answer: dict[str, Any], model: str) -> tuple[dict[str, Any], Usage | None] | None:
    """OpenAI's answer under the public name, made of Google's; ``None`` if that is no answer."""
    candidates = objects(answer.get("candidates"))
    refusal = blocked(answer)
    if not candidates and not refusal:
        return None
    identity = answer.get("responseId")
    translated: dict[str, Any] = {
        "id": identity if identity and isinstance(identity, str) else completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [_choice(place, candidate) for place, candidate in enumerate(candidates)] or [_refused(refusal)],
    }
    usage = read_usage(answer.get("usageMetadata"))
    if usage is not None:
        translated["usage"] = usage.reported
    return translated, usage


def blocked(answer: dict[str, Any]) -> str:
    """Why there is no answer to the prompt, in words; empty if there is one."""
    feedback = answer.get("promptFeedback")
    reason = string(feedback.get("blockReason")) if isinstance(feedback, dict) else ""
    if not reason or not isinstance(feedback, dict):
        return ""
    told = string(feedback.get("blockReasonMessage"))
    return f"the prompt was blocked ({reason})" + (f": {told}" if told else "")


def _refused(refusal: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": refusal}
    return {"index": 0, "message": message, "logprobs": None, "finish_reason": "content_filter"}


def _choice(place: int, candidate: dict[str, Any]) -> dict[str, Any]:
    read = read_parts(candidate)
    finish = finish_reason(candidate, has_calls=bool(read.calls)) or "stop"
    content = read.text or (None if read.calls or finish == "content_filter" else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, **read.fields(), **grounding(candidate)}
    if read.calls:
        message["tool_calls"] = read.calls
    if finish == "content_filter" and string(candidate.get("finishMessage")):
        message["refusal"] = candidate["finishMessage"]
    index = candidate.get("index")
    return {
        "index": index if isinstance(index, int) else place,
        "message": message,
        "logprobs": logprobs(candidate),
        "finish_reason": finish,
    }


def grounding(candidate: dict[str, Any]) -> dict[str, Any]:
    """What Google's search has found for the answer, as Google's own field of the message."""
    found = candidate.get("groundingMetadata")
    return {"grounding_metadata": found} if isinstance(found, dict) and found else {}


def logprobs(candidate: dict[str, Any]) -> dict[str, Any] | None:
    """OpenAI's ``logprobs``, one entry for each token; ``None`` without any."""
    result = candidate.get("logprobsResult")
    if not isinstance(result, dict):
        return None
    others = [objects(each.get("candidates")) for each in objects(result.get("topCandidates"))]
    entries = []
    for place, chosen in enumerate(objects(result.get("chosenCandidates"))):
        top = others[place] if place < len(others) else []
        entries.append({**_logprob(chosen), "top_logprobs": [_logprob(each) for each in top]})
    return {"content": entries, "refusal": None}


def _logprob(candidate: dict[str, Any]) -> dict[str, Any]:
    token, logprob = string(candidate.get("token")), candidate.get("logProbability")
    number = logprob if isinstance(logprob, int | float) else -9999.0
    return {"token": token, "logprob": number, "bytes": list(token.encode("utf-8", "replace"))}
