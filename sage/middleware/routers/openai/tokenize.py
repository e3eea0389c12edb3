"""vLLM's own surface: ``/v1/score``, ``/v1/tokenize``, ``/v1/detokenize``, for every vendor that offers them.

Source: vLLM's *OpenAI-Compatible Server* page (score API, tokenizer API).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.bodies import SMALL_BODY
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.http.openapi_bodies import OpenBody
from sage.middleware.routers.openai.inference import Inference

# Other names that vLLM has for the two sides.
_ALIASES = {"queries": "text_1", "documents": "text_2", "data_1": "text_1", "data_2": "text_2"}


class Scoring(Inference):
    """``/v1/score``. The two sides are sent as ``text_1`` and ``text_2``, which every version of vLLM understands."""

    def _parse(self, body: dict[str, Any]) -> ModelCall:
        for alias, name in _ALIASES.items():
            if alias in body:
                if name in body:
                    raise InvalidRequest(f"'{alias}' is another name of '{name}'; give one of them", param=alias)
                body[name] = body.pop(alias)
        return super()._parse(body)


class ScoreRequest(OpenBody):
    """How similar texts are, or how well they answer: one text against many, or pairs. Higher is better."""

    model: str = Field(examples=["bge-reranker"])
    text_1: str | list[str] = Field(examples=["What is the capital of France?"])
    text_2: str | list[str] = Field(examples=[["Paris is the capital of France.", "Bread is baked."]])


class Score(BaseModel):
    """The score of one pair; `index` is its position in the request."""

    index: int
    object: str = "score"
    score: float


class ScoreAnswer(BaseModel):
    """The scores, in the order of the pairs."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[Score]
    usage: dict[str, Any]


class TokenizeRequest(OpenBody):
    """A prompt, or messages under the model's chat template, as the model's own tokens."""

    model: str = Field(examples=["gemma-3-270m"])
    prompt: str | None = Field(None, examples=["The sky is blue."])
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = Field(None, description="Begin with the model's own first token.")


class TokenizeAnswer(BaseModel):
    """The tokens, as numbers."""

    count: int
    max_model_len: int | None
    tokens: list[int]


class DetokenizeRequest(OpenBody):
    """The text of tokens."""

    model: str = Field(examples=["gemma-3-270m"])
    tokens: list[int] = Field(examples=[[2, 818, 7217]])


class DetokenizeAnswer(BaseModel):
    """The text."""

    prompt: str


_hot_route = partial(HotRoute, scope=Permission.GENERATE, tag="vLLM")
ROUTES = (
    _hot_route(
        path="/v1/score",
        name="score",
        summary="Scores of pairs of texts",
        request=ScoreRequest,
        answer=ScoreAnswer,
        endpoint=partial(Scoring, operation=Operation.SCORE),
    ),
    _hot_route(
        path="/v1/tokenize",
        name="tokenize",
        summary="Tokens of a text",
        request=TokenizeRequest,
        answer=TokenizeAnswer,
        endpoint=partial(Inference, operation=Operation.TOKENIZE),
        max_body=8 * SMALL_BODY,
    ),
    _hot_route(
        path="/v1/detokenize",
        name="detokenize",
        summary="Text of tokens",
        request=DetokenizeRequest,
        answer=DetokenizeAnswer,
        endpoint=partial(Inference, operation=Operation.DETOKENIZE),
        max_body=4 * SMALL_BODY,
    ),
)
