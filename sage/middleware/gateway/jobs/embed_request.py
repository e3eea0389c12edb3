"""``POST /tasks/embed``: vectors of many texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Principal, Scope
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.gateway import Gateway
from sage.middleware.gateway.jobs.generate_request import CustomId, CustomIds
from sage.middleware.gateway.jobs.lines import LineReader
from sage.middleware.gateway.jobs.named import NamedThings
from sage.middleware.gateway.jobs.options import JobOptions
from sage.middleware.providers.base import MAX_NAME, ModelCall, Operation


class EmbedLine(BaseModel):
    """One text; its vector comes back under the same `custom_id`."""

    model_config = ConfigDict(extra="allow", strict=True)

    custom_id: CustomId | None = None
    input: str = Field(min_length=1)


class EmbedJobRequest(JobOptions):
    """Texts to embed: in `input`, in `requests` with ids of their own, or one a line of a file. Other fields go with
    every one to the model. With `Content-Type: application/x-ndjson` the body is one `{"input": …}` a line."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = Field(None, examples=["local/minilm-l6-v2-int8x8"])
    collection: str | None = Field(None, description="In place of `model`: the model that this collection embeds with.")
    input: str | list[str] | None = Field(None, examples=[["This is document 1", "This is document 2"]])
    requests: list[EmbedLine] | None = None
    input_file_id: str | None = Field(None, description="An uploaded file with one text a line, as `requests` has.")
    dimensions: int | None = None


class EmbedLines:
    """The lines of one job."""

    def __init__(self, gateway: Gateway, fields: dict[str, Any], texts: list[Any] | None, unit: str) -> None:
        """``fields`` go with every text; ``unit`` is the field that ``texts`` came in."""
        self.unit = unit
        self._gateway = gateway
        self._named = NamedThings(gateway)
        self._ids = CustomIds()
        self._fields = fields
        self._texts = texts

    @classmethod
    async def open(cls, gateway: Gateway, principal: Principal, fields: dict[str, Any]) -> EmbedLines:
        """Raises what the look-up of the ``collection`` raises, if there is one."""
        given = [name for name in ("input", "requests") if fields.get(name) is not None]
        if len(given) == 2:
            raise InvalidRequest("give either 'input' or 'requests'", param="input")
        texts = fields.pop(given[0]) if given else None
        if given == ["input"]:
            texts = [{"input": text} for text in (texts if isinstance(texts, list) else [texts])]
        if texts is not None and not isinstance(texts, list):
            raise InvalidRequest("'requests' must be a list of texts such as {\"input\": …}", param="requests")
        parse(EmbedJobRequest, fields)
        collection = fields.pop("collection", None)
        if collection is not None:
            fields["model"] = await _embedder_of(gateway, principal, collection, fields)
        return cls(gateway, fields, texts, given[0] if given else "input")

    def own_lines(self) -> list[Any] | None:
        return self._texts

    def check(self, line: dict[str, Any], number: int) -> Sequence[dict[str, Any]]:
        body = {**self._fields, **line}
        self._ids.check(body)
        text, model = body.get("input"), body.get("model")
        if not isinstance(text, str) or not text:
            raise InvalidRequest("'input' must be a text that is not empty: one on each line", param="input")
        if not isinstance(model, str) or not 1 <= len(model) <= MAX_NAME:
            raise InvalidRequest("'model' must name a model (GET /models lists them)", param="model")
        asked = {name: value for name, value in body.items() if name != "custom_id"}
        self._gateway.check(ModelCall(Operation.EMBEDDINGS, asked, model))
        self._named.add_models((model,), number)
        return (body,)

    async def check_names(self, principal: Principal, reader: LineReader) -> None:
        await self._named.check(principal, reader)

    def params(self) -> dict[str, Any]:
        return {}


async def _embedder_of(gateway: Gateway, principal: Principal, collection: Any, fields: dict[str, Any]) -> str:
    if not isinstance(collection, str) or not collection:
        raise InvalidRequest("'collection' must be the name of a collection", param="collection")
    if fields.get("model") is not None:
        raise InvalidRequest("give either 'model' or 'collection', which has one", param="collection")
    principal.require(Scope.SEARCH)
    embedder = (await gateway.collections.describe(principal, collection)).get("embedder")
    if not isinstance(embedder, str):
        raise InvalidRequest(
            f"the collection '{collection}' has no embedder of the gateway's; give a 'model'", param="collection"
        )
    return embedder
