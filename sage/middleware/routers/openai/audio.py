"""``/v1/audio/speech``, ``/v1/audio/transcriptions`` and ``/v1/audio/translations``.

Source: OpenAI's API reference, *Audio*.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import Field

from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.providers.base import Operation
from sage.middleware.routers.http.forms.parts import FORM
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.openai.relays import FormRelay, JsonRelay


class SpeechRequest(OpenBody):
    """A text to speak. Fields that are not listed go on to the provider unchanged."""

    model: str = Field(examples=["gpt-4o-mini-tts"])
    input: str = Field(examples=["The sky is blue."])
    voice: str | dict[str, Any] = Field(examples=["alloy"])
    instructions: str | None = None
    response_format: str | None = Field(None, description="Such as mp3, opus, aac, flac, wav or pcm.")
    speed: float | None = None
    stream_format: str | None = Field(None, description="`audio`, or `sse` for events.")
    models: list[str] | None = Field(None, description="Names of models that may answer instead, in this order.")


class TranscriptionRequest(OpenBody):
    """A form with a recording. Fields that are not listed go on to the provider unchanged.

    The form goes on as it comes once `model` has come; what comes before `model` is kept until then.
    """

    file: str = Field(description="The recording.", json_schema_extra={"format": "binary"})
    model: str = Field(examples=["gpt-4o-transcribe"])
    language: str | None = None
    prompt: str | None = None
    response_format: str | None = Field(None, description="Such as json, text, srt, verbose_json or vtt.")
    temperature: float | None = None
    stream: bool = False
    models: list[str] | None = Field(None, description="Names of models that may answer instead, before the file.")


class TranslationRequest(OpenBody):
    """A form with a recording, of which the text is wanted in English."""

    file: str = Field(description="The recording.", json_schema_extra={"format": "binary"})
    model: str = Field(examples=["whisper-1"])
    prompt: str | None = None
    response_format: str | None = Field(None, description="Such as json, text, srt, verbose_json or vtt.")
    temperature: float | None = None
    models: list[str] | None = Field(None, description="Names of models that may answer instead, before the file.")


_hot_route = partial(HotRoute, scope=Permission.GENERATE, tag="OpenAI")
ROUTES = (
    _hot_route(
        path="/v1/audio/speech",
        name="speech",
        summary="Speech of a text",
        request=SpeechRequest,
        endpoint=partial(JsonRelay, operation=Operation.SPEECH),
        gives="application/octet-stream",
    ),
)
FORM_ROUTES = (
    _hot_route(
        path="/v1/audio/transcriptions",
        name="transcriptions",
        summary="Text of a recording",
        request=TranscriptionRequest,
        endpoint=partial(FormRelay, operation=Operation.TRANSCRIPTIONS),
        takes=(FORM,),
    ),
    _hot_route(
        path="/v1/audio/translations",
        name="translations",
        summary="English text of a recording",
        request=TranslationRequest,
        endpoint=partial(FormRelay, operation=Operation.TRANSLATIONS),
        takes=(FORM,),
    ),
)
"""Those that take a form."""
