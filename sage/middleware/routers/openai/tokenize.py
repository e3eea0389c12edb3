"""vLLM's own surface: ``/v1/score``, ``/v1/tokenize``, ``/v1/detokenize``, for every vendor that can.

Source: vLLM's *OpenAI-Compatible Server* page (score API, tokenizer API).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sage.errors import InvalidRequest
from sage.middleware.auth.principal import Scope as Permission
from sage.middleware.providers.base import ModelCall, Operation
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.openai.inference import Inference

# Other names that vLLM knows the two sides by.
_SIDES = {"queries": "text_1", "documents": "text_2", "data_1": "text_1", "data_2": "text_2"}


class Scoring(Inference):
    """``/v1/score``. The two sides go on as ``text_1`` and ``text_2``, the names that every version of vLLM knows."""

    def _parse(self, body: dict[str, Any]) -> ModelCall:
        for theirs, ours in _SIDES.items():
            if theirs in body:
                if ours in body:
                    raise InvalidRequest(f"'{theirs}' is another name of '{ours}'; give one of them", param=theirs)
                body[ours] = body.pop(theirs)
        return super()._parse(body)


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ScoreRequest(_Open):
    """How alike texts are, or how well they answer: one text against many, or pairs. Higher is nearer."""

    model: str = Field(examples=["bge-reranker"])
    text_1: str | list[str] = Field(examples=["What is the capital of France?"])
    text_2: str | list[str] = Field(examples=[["Paris is the capital of France.", "Bread is baked."]])


class Score(BaseModel):
    """The score of one pair, by its place in the request."""

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


class TokenizeRequest(_Open):
    """A prompt, or messages under the model's chat template, as the model's own tokens."""

    model: str = Field(examples=["gemma-3-270m"])
    prompt: str | None = Field(None, examples=["The sky is blue."])
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = Field(None, description="Begins with the model's own first token.")


class TokenizeAnswer(BaseModel):
    """The numbers of the tokens."""

    count: int
    max_model_len: int | None
    tokens: list[int]


class DetokenizeRequest(_Open):
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
    ),
    _hot_route(
        path="/v1/detokenize",
        name="detokenize",
        summary="Text of tokens",
        request=DetokenizeRequest,
        answer=DetokenizeAnswer,
        endpoint=partial(Inference, operation=Operation.DETOKENIZE),
    ),
)
