"""The endpoints of sounds and images: a JSON or a form goes in, and the answer goes on as it comes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.gateway import admission
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.asgi import (
    FIELDS,
    Fields,
    Receive,
    Scope,
    Send,
    note,
    read_json,
    take_flag,
    take_model,
)
from sage.middleware.routers.http.forms.relayed import RelayedForm, form_too_large
from sage.middleware.routers.http.passing import respond_as_it_comes

AROUND_FILES = 2**20
"""Bytes of a form that are not of its files, at most."""


class JsonRelay:
    """The ASGI endpoint of an operation that takes a JSON. All its fields go on unchanged, also unknown ones."""

    def __init__(self, gateway: Gateway, operation: Operation) -> None:
        self._gateway = gateway
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json(receive, scope)
        call = relayed_call(self._operation, body)
        del body
        note(scope, model=call.model)
        await respond_as_it_comes(self._gateway, call, scope, receive, send)


class FormRelay:
    """The ASGI endpoint of an operation that takes a form with files."""

    takes_json = False
    """Whether it takes a JSON, too."""
    required: Collection[str] = ("model",)
    """Fields that a form is read for before anything of it is sent."""
    file_field = "file"
    """The field of the file, or of its files with ``[]``, that a form has to have."""

    def __init__(self, gateway: Gateway, operation: Operation) -> None:
        self._gateway = gateway
        self._operation = operation

    @property
    def limit(self) -> int:
        """How many bytes its files have at most."""
        return self._gateway.limits.max_audio_bytes

    setting = "llm.limits.max_audio_bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields: Fields = scope[FIELDS]
        content_type = fields.get(b"content-type", b"").decode("latin-1")
        if self.takes_json and content_type.partition(";")[0].strip().lower() == "application/json":
            await JsonRelay(self._gateway, self._operation)(scope, receive, send)
            return
        limit = self.limit + AROUND_FILES
        size = int(fields[b"content-length"]) if b"content-length" in fields else None
        if size is not None and size > limit:
            raise form_too_large(limit, self.setting)
        form = RelayedForm(receive, content_type, size, limit, self.setting, self._gateway.check_late_fields)
        try:
            call = relayed_call(self._operation, await form.read_beginning(self.required))
            if not form.has_files:
                raise InvalidRequest(f"the form has no file in its field '{self.file_field}'", param=self.file_field)
            call.form = form
            note(scope, model=call.model)
            await respond_as_it_comes(self._gateway, call, scope, receive, send, form)
        finally:
            form.close()


def relayed_call(operation: Operation, body: dict[str, Any]) -> ModelCall:
    """The call for the fields in ``body``."""
    model = take_model(body)
    take_flag(body, "stream")
    fallbacks = admission.fallbacks(body)
    return ModelCall(operation, body, model, stream=True, relayed=True, fallbacks=fallbacks)
